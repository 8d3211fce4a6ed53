"""Renders sets of orbits with exact cameras: a folder of views per object, or one packed array.

Objects are rendered in several processes. What is finished is kept, so a call with the same
settings continues a set, and one with other settings is refused. Every object has its own elevation
and orbit, and with varied lighting its own lights. All are drawn from the seed and the object's
name alone, so the number of processes and the order do not matter.

A packed set has clips.npy (N, T, H, W, 4) uint8 with straight alpha, azimuths.npy and
elevations.npy (N, T) float32 degrees, and names.npy (N,) text. A folder of degraded views has their
truth within: the folder truth with the clean views, the true cameras and the shape as mesh.ply;
one of a catalogue object has the shape there.
"""
