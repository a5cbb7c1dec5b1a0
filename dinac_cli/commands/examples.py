"""One working command line for each command. The help, the manual and usage errors show it."""

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
"""Full name of a command → the arguments of its example."""
