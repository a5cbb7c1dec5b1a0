"""`python -m tests.report.opening PAGE`: times how Chromium opens and sorts a report."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

# Times are milliseconds since the page was requested. Reading offsetHeight forces the layout, which
# the browser would otherwise defer.
_PROBE = """<head><script>
document.addEventListener("DOMContentLoaded", () => {
  const ready = performance.now();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    const shown = performance.now(), sort = document.getElementById("sort"), sorts = [];
    for (const option of sort.options) {
      const start = performance.now();
      sort.value = option.value;
      sort.dispatchEvent(new Event("input"));
      document.body.offsetHeight;
      sorts.push(`${option.textContent} ${Math.round(performance.now() - start)} ms`);
    }
    const cards = document.querySelectorAll("#grid > *").length;
    console.log(`OPENED ready ${Math.round(ready)} ms, ${cards} images shown ` +
      `${Math.round(shown)} ms, sorted ${sorts.join(", ")} END`);
  }));
});
</script>"""


DEADLINE_SECONDS = 60.0


def main() -> None:
    """Opens the page and prints the times."""
    parser = argparse.ArgumentParser(prog="python -m tests.report.opening", description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--browser", default="chromium")
    options = parser.parse_args()
    text = options.page.read_text("utf-8").replace("<head>", _PROBE, 1)
    # Chromium does not start as root, the user of many containers, without --no-sandbox.
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        probed = Path(folder) / "page.html"
        probed.write_text(text, "utf-8")
        flags += ["--remote-debugging-port=0", f"--user-data-dir={folder}/profile"]
        command = [options.browser, *flags, probed.as_uri()]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        assert process.stderr is not None
        deadline = threading.Timer(DEADLINE_SECONDS, process.kill)
        deadline.start()
        try:
            times = (re.search("OPENED (.*) END", line) for line in process.stderr)
            found = next(filter(None, times), None)
        finally:
            deadline.cancel()
            process.kill()
            process.wait()
    if found is None:
        sys.exit(f"{options.browser} did not open the page")
    print(found[1])


if __name__ == "__main__":
    main()
