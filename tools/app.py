#!/usr/bin/env python3
"""A web page: drop an image, correct its cut-out, make views of it, and a mesh of them.

  python tools/app.py                                     # the embedded small model, 64 pixels
  python tools/app.py --config sv3d_p --ckpt sv3d_p.safetensors --device Ascend --dtype fp16
  python tools/app.py --config sv3d_p --ckpt sv3d_p.safetensors --also sv3d_u=sv3d_u.safetensors
  python tools/app.py --host 0.0.0.0 --password-file secret.txt --tls-cert c.pem --tls-key k.pem

Open the address that it prints. Jobs wait for each other, as there is one device; their results are
those of image_to_mesh.py, folders in --output, where the page finds them again. Needs Gradio: make
app, or pip install -r requirements-app.txt.
Only this machine can open the page unless --host is given; then a password is needed, from
--password-file, from the environment variable SV3D_APP_PASSWORD, or typed in.
Ctrl-C ends it, and the job that runs as Ctrl-C ends a command: what is finished stays. A second one
ends that job at once.
Exit code: 0 ended, 2 wrong input.
"""
import argparse
import getpass
import os
import socket
import ssl
import sys
from importlib.util import find_spec
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm
import _feedforward
from _app.gate import NAMES, Gate
from _app.studio import EMBEDDED, Model, Studio

import simple_video_sample
from sgm.common.cli import Arguments, check_folder, exit_code, int_range
from sgm.common.errors import InputError, os_reason
from sgm.config.model_files import load_spec

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PASSWORD = "SV3D_APP_PASSWORD"
SHORTEST = 8            # letters of a password


def also(text):
    """Return "sv3d_u=FILE" as (name or YAML, file): the argparse type of --also."""
    config, _, ckpt = text.partition("=")
    if not config or not ckpt:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a model and its weights, as in"
                                         " sv3d_u=sv3d_u.safetensors")
    return config, ckpt


def parse(argv):
    """Return the parsed arguments."""
    parser = Arguments(prog="app.py", description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("model").add_argument
    simple_video_sample.add_model_flags(add)
    simple_video_sample.add_set_flag(add)
    add("--also", type=also, action="append", default=[], metavar="NAME=FILE",
        help="a further model that the page offers, and its weights, as in --config and --ckpt, of"
        " which --lora, --ema and --set are; may be given several times")
    add("--fast-config", default=None, metavar="NAME|YAML",
        help="a feed-forward network for the button Fast mesh: triposr, vfusion3d, openlrm_base,"
        " lrm_small, which may also estimate the elevation ...; default none")
    add("--fast-ckpt", default=None, metavar="FILE",
        help="its weights; random: draw some, for tests")
    simple_video_sample.add_device_flags(
        parser.add_argument_group("device and memory").add_argument)
    add = parser.add_argument_group("page").add_argument
    add("--output", default="outputs", metavar="DIR",
        help="results, and the only folder that the page reads; default outputs")
    add("--host", default=None, metavar="ADDRESS",
        help="address to listen at, 0.0.0.0 for all of this machine; default 127.0.0.1, which only"
        " this machine reaches")
    add("--port", type=int_range(1, 65535), default=7860, help="default 7860")
    add("--password-file", type=Path, default=None, metavar="FILE",
        help=f"its first line is the password, of at least {SHORTEST} letters; default: the"
        f" environment variable {PASSWORD}, or ask")
    add("--tls-cert", type=Path, default=None, metavar="PEM", help="certificate, for https")
    add("--tls-key", type=Path, default=None, metavar="PEM", help="its key")
    add("--max-upload", type=int_range(1, 1000), default=32, metavar="MB",
        help="largest image file; default 32")
    args = parser.parse_args(argv)
    for flag, given in (("--tls-cert", args.tls_cert), ("--tls-key", args.tls_key)):
        if given and not given.is_file():
            parser.error(f"argument {flag}: found no file {given}")
    if args.fast_config and not _feedforward.is_feedforward(args.fast_config):
        parser.error(f"argument --fast-config: found {args.fast_config}, expected a feed-forward"
                     " network: lrm_small, triposr, vfusion3d, openlrm_base")
    if bool(args.fast_ckpt) != bool(args.fast_config):
        parser.error("argument --fast-ckpt: needs --fast-config, and the other way round; random"
                     " draws weights, which make noise")
    # what would only fail with the first job
    if args.ckpt and not args.config:
        parser.error("argument --ckpt: needs --config; without either it is the embedded model")
    if args.config and not args.ckpt and Path(args.config).stem != EMBEDDED:
        parser.error(f"argument --config: {args.config} needs weights, --ckpt; random draws some,"
                     " which make noise")
    for flag, given in (("--ckpt", args.ckpt), ("--fast-ckpt", args.fast_ckpt),
                        ("--lora", args.lora), *(("--also", ckpt) for _, ckpt in args.also)):
        if given not in (None, "random") and not Path(given).exists():
            parser.error(f"argument {flag}: found nothing at {given}")
    if bool(args.tls_cert) != bool(args.tls_key):
        parser.error("argument --tls-cert: needs --tls-key, and the other way round")
    return args


def models(args):
    """Return the `Model` of --config and those of --also. Raises ConfigError.

    Their flags go to a process that runs elsewhere: paths are made absolute.
    """
    shared = _values(args, "device", "device_id", "mode", "dtype", "decode_chunk")
    shared += ["--sequential-cfg"] * args.sequential_cfg
    first = [f"--set={change}" for change in args.set] + ["--ema"] * args.ema
    first += _paths(config=args.config, ckpt=args.ckpt, lora=args.lora)
    return [Model(load_spec(args.config or EMBEDDED, args.set), [*first, *shared]),
            *(Model(load_spec(config), [*_paths(config=config, ckpt=ckpt), *shared])
              for config, ckpt in args.also)]


def fast_argv(args):
    """Return the flags of the feed-forward network in the same way; None without one."""
    if args.fast_config is None:
        return None
    return [*_paths(config=args.fast_config, ckpt=args.fast_ckpt),
            *_values(args, "device", "device_id", "mode")]


def _paths(**given):
    return [f"--{name}={Path(value).absolute() if Path(value).exists() else value}"
            for name, value in given.items() if value is not None]


def _values(args, *names):
    return [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]


def password(args):
    """Return the password; None for a page that only this machine reaches and that has none.

    Raises InputError.
    """
    text, place = os.environ.pop(PASSWORD, None), PASSWORD      # the computing process gets none
    if args.password_file is not None:
        place = f"--password-file {args.password_file}"
        try:
            with open(args.password_file, encoding="utf-8") as file:
                text = file.readline().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = os_reason(error) if isinstance(error, OSError) else "it is no text"
            raise InputError(f"{place}: cannot be read: {reason}") from None
    if text is None and args.host not in (None, *LOOPBACK):
        if not sys.stdin.isatty():
            raise InputError(f"--host {args.host}: needs a password; give --password-file or set"
                             f" {PASSWORD}")
        text, place = getpass.getpass("password for the page: "), "password"
    if text is not None and len(text) < SHORTEST:
        raise InputError(f"{place}: found {len(text)} letters, expected at least {SHORTEST}")
    return text


def check_certificate(certificate, key):
    """Raise InputError unless two files are a certificate and its key, which is not encrypted."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "")
    except (OSError, ValueError) as error:          # an SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InputError(f"--tls-cert {certificate}: found no certificate with its key, --tls-key"
                         f" {key} ({reason}), expected both as PEM, the key without a passphrase"
                         ) from None


def listening(host, port):
    """Return a socket that listens. Raises InputError."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        return opened
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there:"
                         f" {error.strerror or error}; give another port or address") from None


def main(argv=None):
    """Serve the page until Ctrl-C; return the exit code."""
    args = parse(argv)
    if args.tls_cert:
        check_certificate(args.tls_cert, args.tls_key)
    if find_spec("gradio") is None:
        raise InputError("found no package gradio, which the page needs; make app installs it, or"
                         " pip install -r requirements-app.txt")
    check_folder(args.output, "--output")
    secret = password(args)
    host = args.host or "127.0.0.1"
    studio = Studio(args, models(args), fast_argv(args))
    try:
        # before the toolkit loads: it tells nobody of its use, and keeps its copies in one place
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(studio.uploads),
                          HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
        from _app.server import Server, application
        gate = Gate(application(studio, args.max_upload << 20), secret,
                    NAMES if host in LOOPBACK else None, args.max_upload << 20, studio.uploads)
        kind = "https" if args.tls_cert else "http"
        opened = listening(host, args.port)
        shown = f"[{host}]" if ":" in host else host
        print(f"{kind}://{shown}:{args.port}/ serves {args.output}; Ctrl-C ends it", flush=True)
        if host not in LOOPBACK and not args.tls_cert:
            print("The traffic is clear: whoever is in between reads the password, the pictures and"
                  " the results. --tls-cert and --tls-key, or a tunnel (ssh -L), hide it.",
                  flush=True)
        Server(gate, opened, args.tls_cert, args.tls_key).run()
    finally:
        studio.close()
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("app.py", main))
