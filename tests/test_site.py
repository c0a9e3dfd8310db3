"""The built site needs no other host, fits on a phone, shows its formulas, and can be searched."""

import functools
import http.server
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REPOSITORY = "https://github.com/some/where"
# What a browser loads by itself. It follows the `href` of an <a> only when asked.
LOADED = (
    re.compile(r"""<(?!a\b)[a-z]+\b[^>]*?\b(?:src|srcset|data)=["']?((?:https?:)?//[^"' >]+)"""),
    re.compile(
        r"""<link\b(?![^>]*rel="?canonical)[^>]*?\bhref=["']?((?:https?:)?//[^"' >]+)""",
    ),
    re.compile(r"""(?:url\(|@import )["']?((?:https?:)?//[^"')]+)"""),
)
# Opens every page in a frame as wide as a phone, and sends what it found.
PROBE = """<!doctype html><iframe width="390" height="800"></iframe><script>
const frame = document.querySelector("iframe");
const pause = () => new Promise(done => setTimeout(done, 50));
async function open(page) {
  await new Promise(done => { frame.onload = done; frame.src = page; });
  await frame.contentWindow.MathJax?.startup?.promise;
  return frame.contentDocument;
}
async function search(word) {
  const page = await open("/index.html");
  const query = page.querySelector("[data-md-component=search-query]");
  query.focus();
  query.value = word;
  query.dispatchEvent(new Event("keyup"));
  for (let i = 0; i < 100 && !page.querySelector(".md-search-result__item"); i++) await pause();
  return page.querySelector(".md-search-result__item a")?.getAttribute("href") ?? "";
}
(async () => {
  const found = {};
  for (const page of PAGES) {
    const seen = await open(page), element = seen.documentElement;
    const loaded = frame.contentWindow.performance.getEntriesByType("resource");
    found[page] = {
      width: element.scrollWidth,
      formulas: seen.querySelectorAll(".arithmatex").length,
      rendered: seen.querySelectorAll(".arithmatex mjx-container").length,
      wrong: seen.querySelectorAll("mjx-merror").length,
      foreign: loaded.map(x => x.name).filter(x => !x.startsWith(location.origin)),
    };
  }
  found.search = await search("SEARCHED");
  await fetch("/found", { method: "POST", body: JSON.stringify(found) });
})();
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built with the address of a repository as its host gives it."""
    pytest.importorskip("mkdocs", reason="the site needs `pip install '.[docs]'`")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        "READTHEDOCS_GIT_CLONE_URL": REPOSITORY,
    }
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


def pages(site):
    return [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]


def test_the_site_loads_nothing_from_another_host(site):
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    files += [site / "mathjax.js"]  # other scripts are packages': the browser tells what they load
    found = {
        (path.relative_to(site).as_posix(), address)
        for path in files
        for pattern in LOADED
        for address in pattern.findall(path.read_text())
    }
    assert len(files) > 40 and not found
    assert (site / "assets/mathjax/tex-chtml.js").exists()


def test_loads_from_another_host_would_be_found():
    for loaded in (
        '<script src="https://host/x.js">',
        "<img alt=x src=//host/x.png>",
        '<link rel="stylesheet" href="https://host/x.css">',
        "a { background: url(https://host/x.png) }",
        '@import "//host/x.css"',
    ):
        assert any(pattern.search(loaded) for pattern in LOADED), loaded
    assert not any(pattern.search('<a href="https://host">') for pattern in LOADED)


def test_the_front_page_is_the_readme_with_icon_and_repository(site):
    text = (site / "index.html").read_text()
    for title in re.findall(r"^## (.*)$", README, re.M):
        assert f">{title}<" in text
    assert f'href="{REPOSITORY}"' in text
    assert 'data-md-component="source"' not in text  # the theme would ask its host for stars
    assert 'rel="icon" href="images/icon.svg"' in text
    for image in re.findall(r'<img [^>]*src="([^"]+)"', text):
        assert (site / image).stat().st_size < 200_000


def test_each_cell_of_a_table_has_the_title_of_its_column(site):
    text = (site / "which-loss/index.html").read_text()
    row = re.search(r"<tr>\s*<td[^>]*><a [^>]*><code>ntxent</code>.*?</tr>", text, re.S)[0]
    titles = ["loss", "when", "miner", "cost", "paper", "setting"]
    assert re.findall(r'<td data-label="(\w*)"', row) == titles


def test_in_a_browser(site):
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        pytest.skip("neither chromium nor google-chrome is on the PATH")
    addresses = ["/" + path.relative_to(site).as_posix() for path in pages(site)]
    probe = PROBE.replace("PAGES", json.dumps(addresses)).replace("SEARCHED", "ntxent")
    (site / "probe.html").write_text(probe)
    found = seen(browser, site)
    first = found.pop("search")
    assert set(found) == set(addresses)
    where = urllib.parse.urlsplit(first).path.lstrip("/")
    assert where.startswith(("api/", "which-loss", "contents")), first
    assert {page: x["width"] for page, x in found.items() if x["width"] > 390} == {}
    assert {page: x["foreign"] for page, x in found.items() if x["foreign"]} == {}
    for page, x in found.items():
        assert x["rendered"] == x["formulas"] and not x["wrong"], (page, x)
    assert found["/api/losses/index.html"]["rendered"] > 50


def seen(browser, site):
    """What the probe found, in a browser that reaches this machine only."""
    found = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self):
            found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = "--headless=new --no-sandbox --disable-gpu --disable-background-networking"
        command = [browser, *flags.split(), "--remote-debugging-port=0"]  # stays open for it
        command += [f"--user-data-dir={site.parent / 'profile'}", "--window-size=1400,900"]
        address = f"http://127.0.0.1:{server.server_port}/probe.html"
        process = subprocess.Popen([*command, address], stderr=subprocess.DEVNULL)
        try:
            return found.get(timeout=300)
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
