"""Working command lines. The help and the manual show them, and usage errors the first ones."""

EXAMPLES = {
    "dinac": "encode photos/ latents/",
    "dinac encode": "photos/ latents/",
    "dinac decode": "latents/ decoded/",
    "dinac export": "latents/ shards/ --to webdataset",
    "dinac info": "latents/",
    "dinac preview": "latents/ sheet.png",
    "dinac psnr": "photos/ decoded/",
    "dinac compare": "photos/ comparison/ --steps 1,4 --no-speed",
    "dinac report": "photos/ decoded/ report.html",
    "dinac verify": "latents/ --source photos/",
    "dinac plan": "photos/ latents/",
    "dinac features": "latents/ features.safetensors",
    "dinac train": "photos/ my-model/ --minutes 10",
    "dinac bench": "--only network",
    "dinac models": "list",
    "dinac models list": "--json",
    "dinac models pull": "d2",
    "dinac models show": "nano",
    "dinac models rm": "d2",
    "dinac demo": "my-demo/",
    "dinac doctor": "latents/",
    "dinac completions": "bash",
    "dinac man": "format",
    "dinac help": "encode",
}
"""Full name of a command → the arguments of its first example."""

MORE_EXAMPLES = {
    "dinac encode": (
        "photos/ bucketed/ --buckets 1024x1024:64 --upscale",
        "photos/ masked/ --mask",
    ),
}
"""Full name of a command → the arguments of further examples."""


def list_examples(path: str) -> list[str]:
    """Returns the examples of a command or group as whole command lines."""
    arguments = [EXAMPLES[path], *MORE_EXAMPLES.get(path, ())] if path in EXAMPLES else []
    return [f"{path} {each}" for each in arguments]
