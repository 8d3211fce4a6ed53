"""What the page says, in English and Chinese."""
LANGUAGES = {"en": "English", "zh": "中文"}

_TEXTS = {
    "title": ("One image to a 3D mesh", "单张图片生成三维网格"),
    "other": ("中文", "English"),
    "image": ("1. Image", "1. 图片"),
    "drop": ("Drop an image (png, jpg, webp, bmp, gif, tiff, avif)",
             "拖入图片（png、jpg、webp、bmp、gif、tiff、avif）"),
    "too_large": ("The file is too large: at most {most} MB. Make the image smaller.",
                  "文件太大：最大 {most} MB。请缩小图片。"),
    "cut": ("Cut-out: red is cut away. The threshold cuts it out anew: the further right, the more"
            " is background. The brush corrects it: red removes, green keeps.",
            "抠图：红色部分被抠除。阈值重新抠图：越靠右，抠除越多。画笔修正：红色去除，绿色保留。"),
    "cut_done": ("{name}: cut out by {how}.", "{name}：已抠图（{how}）。"),
    "cut_doubt": ("The object may be cut out badly: {doubt}. Correct it with the brush.",
                  "抠图可能不准确：{doubt}。请用画笔修正。"),
    "views": ("2. Views", "2. 视角"),
    "fast_off": ("Fast mesh, in one pass, needs a feed-forward network: start the page with"
                 " --fast-config and --fast-ckpt.",
                 "快速网格（单次前向）需要前馈网络："
                 "启动网页时请给出 --fast-config 和 --fast-ckpt。"),
    "fast_on": ("Fast mesh: in one pass, by {name}, without views.",
                "快速网格：由 {name} 单次前向生成，不经过视角。"),
    "fast_facts": ("{model}, {device}", "{model}，{device}"),
    "fast": ("Fast mesh", "快速网格"),
    "models": ("Model", "模型"),
    "model": ("{name}: {frames} views of {height} x {width} pixels, on {device}.",
              "{name}：{frames} 个视角，{height} x {width} 像素，设备 {device}。"),
    "small": ("It is the small embedded model: it knows simple procedural objects only. With a"
              " photo it shows that the program works, not quality.",
              "这是内置的小模型，只认识简单的程序化物体。对照片只能演示流程，不代表质量。"),
    "elevation": ("Elevation of the image's camera (°)", "图片的拍摄仰角（°）"),
    "elevation_label": ("This model is not told the elevation: it labels the cameras only. The"
                        " mesh estimates it by the outlines.",
                        "该模型不以仰角为条件：它只用于标注相机。生成网格时按轮廓估计。"),
    "estimate": ("Estimate it", "估计仰角"),
    "estimate_on": ("By {name}, from the image.", "由 {name} 根据图片估计。"),
    "estimate_off": ("Estimating it takes a feed-forward network that can: start the page with"
                     " --fast-config lrm_small and its weights.",
                     "估计仰角需要带估计器的前馈网络："
                     "启动网页时请给出 --fast-config lrm_small 及其权重。"),
    "estimated": ("{folder}: about {degrees:.0f}° above the horizon",
                  "{folder}：仰角约 {degrees:.0f}°"),
    "orbit": ("Orbit", "环绕轨道"),
    "orbit_default": ("best for a mesh", "最适合网格"),
    "orbit_static": ("at one elevation", "固定仰角"),
    "orbit_sine": ("up and down (sine)", "上下起伏（正弦）"),
    "orbit_dynamic": ("random", "随机"),
    "amplitude": ("Amplitude of the sine (°)", "正弦幅度（°）"),
    "steps": ("Steps", "步数"),
    "seed": ("Seed", "随机种子"),
    "guidance": ("Largest guidance", "最大引导强度"),
    "make_views": ("Make the views", "生成视角"),
    "mesh": ("3. Mesh", "3. 网格"),
    "config": ("Settings", "配置"),
    "light": ("Light", "光照"),
    "light_separate": ("separate from color", "与颜色分离"),
    "light_bake": ("baked in", "分离后烘焙"),
    "light_none": ("as the views have it", "保持视角中的样子"),
    "distill": ("Distillation: the model tells what no view shows (slow)",
                "蒸馏：由模型补全看不到的部分（较慢）"),
    "elevation_from": ("Elevation of the cameras", "相机仰角"),
    "elevation_cameras": ("as the views say", "按视角记录"),
    "elevation_auto": ("estimate it by the outlines", "按轮廓估计"),
    "elevation_given": ("the one above", "使用上面的数值"),
    "resume": ("Go on with a cancelled mesh", "继续已取消的网格"),
    "make_mesh": ("Make the mesh", "生成网格"),
    "cancel": ("Cancel", "取消"),
    "results": ("Results on this machine", "本机的结果"),
    "refresh": ("Refresh", "刷新"),
    "none_open": ("Choose an image, or open a result.", "请选择图片，或打开一个结果。"),
    "waiting": ("{folder}: waits, place {place} in the queue",
                "{folder}：排队中，前面还有 {place} 个"),
    "begins": ("{folder}: begins", "{folder}：开始"),
    "running": ("{folder}: stage {number} of {stages}, {stage}",
                "{folder}：阶段 {number}/{stages}，{stage}"),
    "step": ("step {done} of {total}", "第 {done}/{total} 步"),
    "left": ("{left} left", "剩余 {left}"),
    "cancelling": ("{folder}: is being cancelled; what is finished stays. A second click ends it at"
                   " once.", "{folder}：正在取消，已完成的部分会保留。再点一次立即结束。"),
    "done": ("{folder}: done", "{folder}：完成"),
    "doubtful": ("{folder}: done, but the mesh does not explain its views; see below",
                 "{folder}：完成，但网格与视角不一致，见下方说明"),
    "failed": ("{folder}: failed", "{folder}：失败"),
    "cancelled": ("{folder}: cancelled; what was finished stays",
                  "{folder}：已取消，已完成的部分已保留"),
    "preview": ("step {step}, a rough preview", "第 {step} 步，粗略预览"),
    "strip": ("in the order of the orbit, the input view last", "按环绕顺序，最后一张是输入视角"),
    "facts": ("{model}, seed {seed}, {steps} steps, {device}",
              "{model}，种子 {seed}，{steps} 步，{device}"),
    "mesh_facts": ("{faces} faces, {closed}", "{faces} 个面，{closed}"),
    "closed": ("watertight", "封闭"),
    "open": ("not watertight", "不封闭"),
    "interrupted": ("made of what there was when it was cancelled", "由取消时已有的数据生成"),
    "psnr": ("against its views: {psnr:.1f} dB on the object, silhouettes {iou:.3f} (IoU)",
             "与视角相比：物体上 {psnr:.1f} dB，轮廓 IoU {iou:.3f}"),
    "outlines": ("elevation {used:.1f}°, by the outlines {told:.1f}°",
                 "仰角 {used:.1f}°，按轮廓估计 {told:.1f}°"),
    "beside": ("Mesh beside its views: views, mesh, its shape alone",
               "网格与视角的对比：视角、网格、无纹理的形状"),
    "lit": ("Views, albedo (the color without light), shading, a ball in the same light",
            "视角、反照率（去除光照的颜色）、明暗、同一光照下的球"),
    "downloads": ("Downloads", "下载"),
    "report": ("Report", "报告"),
    "said": ("What the program said", "程序输出"),
    "queue": ("Queue", "队列"),
    "nothing": ("empty", "空"),
    "viewer": ("cameras and mesh", "相机与网格"),
    "job_views": ("views", "视角"),
    "job_mesh": ("mesh", "网格"),
    "job_fast": ("fast mesh", "快速网格"),
    "job_elevation": ("elevation", "仰角"),
}

STAGES = {
    "condition": ("looking at the image", "读取输入图片"),
    "sample": ("diffusion", "扩散采样"),
    "decode": ("latents to pictures", "解码为图片"),
    "views": ("reading the views", "读入视角"),
    "hull": ("what the silhouettes allow", "由轮廓得到外壳"),
    "nerf": ("radiance field", "神经辐射场"),
    "surface": ("depths fused", "融合深度"),
    "dmtet": ("surface refined", "细化曲面"),
    "distill": ("what no view shows, by the model", "由模型补全看不到的部分"),
    "encode": ("looking at the image", "读取输入图片"),
    "planes": ("triplanes", "三平面"),
    "grid": ("density on a grid", "网格上的密度"),
    "clean": ("surface", "曲面"),
    "color": ("colors", "颜色"),
    "files": ("files", "文件"),
    "texture": ("texture, files, pictures", "纹理、文件与图片"),
}


def say(language, key, **values):
    """Return a text of the page in a language of LANGUAGES, with its values filled in."""
    return _TEXTS[key][language != "en"].format(**values)


def stage(language, name):
    """Return what a stage is called; an unknown one is called by its name."""
    return STAGES.get(name, (name, name))[language != "en"]


def preferred(accepted):
    """Return the language of LANGUAGES that an Accept-Language header asks for first."""
    for part in (accepted or "").split(","):
        language = part.strip().lower()[:2]
        if language in LANGUAGES:
            return language
    return "en"
