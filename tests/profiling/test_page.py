"""The page: well formed, loads nothing, shows names as text, readable in light and dark, and draws."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchveil
from torchveil.gates.base import Cost
from torchveil.profiling import Profile

VOID = {"meta"}
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><b>", "a&amp;b", "\u2028'`${x}"]


class Page(HTMLParser):
    """Every element with its attributes and text; an end tag must close the last open element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data

    def data(self) -> Any:
        found = [at for at, (_, attrs) in enumerate(self.scripts()) if attrs.get("type") == "application/json"]
        return json.loads(self.texts["script"][found[0]])

    def scripts(self) -> list[tuple[str, dict[str, str | None]]]:
        return [element for element in self.elements if element[0] == "script"]


class Hostile(nn.Module):
    """Submodules whose names want to be markup."""

    def __init__(self) -> None:
        super().__init__()
        for name in HOSTILE:
            self.add_module(name, nn.Linear(2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in self.children():
            x = module(x)
        return x


def hostile() -> Profile:
    session = torchveil.Session((HOSTILE[0], "bob"), HOSTILE[1])
    net = session.encrypt(Hostile())
    with session.profile() as profile:
        net(session.share(torch.ones(1, 2))).sum().backward()
    profile.record("<i>op</i>", "A.<u>", "<gate>", Cost(1, 2, 3, 4), 0.1)
    return profile


def small() -> Profile:
    profile = torchveil.Session().profile()
    profile.record("aten.mm.default", "Net.body.0", "bilinear", Cost(1, 100, 200, 0), 3.0)
    profile.record("aten.mm.default", "Net.body.1", "bilinear", Cost(2, 100, 0, 0), 2.0)
    profile.record("aten.mm.default", "Net.body.1", "truncate", Cost(0, 0, 50, 0), 1.0)
    profile.record("share", "", "input", Cost(0, 0, 0, 8), 0.5)
    profile._profiler_s = 0.01  # what it took to note that: on a busy machine it may be more than the rest
    return profile


def test_names_are_text() -> None:
    page = Page(hostile().to_html())
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "section", "label", "select", "span"}
    allowed |= {"div", "details", "summary", "table", "tr", "th", "td", "script"}
    assert {tag for tag, _ in page.elements} <= allowed
    assert len(page.scripts()) == 2
    cells = set(page.texts["td"])
    for name in HOSTILE:
        assert f"Hostile.{name}" in cells
    assert {"A.<u>", "<i>op</i>", "<gate>"} <= cells
    top = {node["name"]: node for node in page.data()["tree"]["children"]}
    # what a user may put into a name: the path is split at dots, and nothing else happens to it
    assert {node["name"] for node in top["Hostile"]["children"]} == set(HOSTILE)


def test_nothing_is_loaded_and_only_the_pages_own_script_may_run() -> None:
    text = hostile().to_html()
    page = Page(text)
    for _, attrs in page.elements:
        assert not {"src", "href", "srcset", "action", "style"} & set(attrs)
        assert not [name for name in attrs if name.startswith("on")]
    for asset in ("flame.css", "flame.js"):
        source = files("torchveil.profiling").joinpath(asset).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch|XMLHttp|innerHTML|document\.write|eval", source)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "unsafe" not in policy
    script = next(t for t, (_, a) in zip(page.texts["script"], page.scripts(), strict=True) if "type" not in a)
    for source, word in ((script, "script-src"), (page.texts["style"][0], "style-src")):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{word} 'sha256-{digest}'" in policy


def test_the_tree_adds_up() -> None:
    profile = small()
    data = Page(profile.to_html()).data()
    names = [quantity["name"] for quantity in data["quantities"]]

    def check(node: dict[str, Any]) -> None:
        assert len(node["values"]) == len(names)
        if node["children"]:
            for k, value in enumerate(node["values"]):
                assert sum(child["values"][k] for child in node["children"]) == pytest.approx(value)
        for child in node["children"]:
            check(child)

    root = data["tree"]
    check(root)
    assert root["values"][1:5] == [3, 200, 250, 8]
    net = next(node for node in root["children"] if node["name"] == "Net")
    body = net["children"][0]
    assert [(n["name"], n["kind"]) for n in body["children"]] == [("0", "module"), ("1", "module")]
    mm = body["children"][1]["children"][0]
    assert (mm["name"], mm["kind"], mm["instructions"]) == ("aten.mm.default", "operation", 2)
    assert [(n["name"], n["kind"]) for n in mm["children"]] == [("bilinear", "gate"), ("truncate", "gate")]
    assert {node["kind"] for node in root["children"]} == {"module", "python", "profiler"}


def test_the_root_is_the_wall_time() -> None:
    session = torchveil.Session()
    with session.profile() as profile:
        torch.relu(session.share(torch.ones(4)))
    root = Page(profile.to_html()).data()["tree"]
    assert root["values"][0] == pytest.approx(profile.wall_s)
    for k, network in ((5, torchveil.LAN), (6, torchveil.WAN)):
        assert root["values"][k] == pytest.approx(profile.estimate(network).sequential_s)


def test_the_page_is_written(tmp_path: Path) -> None:
    profile = small()
    text = profile.to_html(tmp_path / "profile.html")
    assert (tmp_path / "profile.html").read_text(encoding="utf-8") == text


# --- colours ---------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_every_box(dark: bool) -> None:
    css = files("torchveil.profiling").joinpath("flame.css").read_text(encoding="utf-8")
    light, _, rest = css.partition("@media (prefers-color-scheme: dark)")
    source = rest.partition("body {")[0] if dark else light
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", source))
    assert set(colours) == {"ink", "ground", "line", "session", "module", "operation", "gate", "other"}
    ink = luminance(colours["ink"])
    for name in set(colours) - {"ink", "line"}:
        ground = luminance(colours[name])
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5, name


# --- drawing ---------------------------------------------------------------------------------------------------------

# As much of a browser as the script asks for.
BROWSER = """
class Element {
  constructor() { this.children = []; this.style = {}; this.on = {}; this.value = "0"; this.text = ""; }
  set textContent(text) { this.text = String(text); this.children = []; }
  get textContent() { return this.text; }
  append(...nodes) { this.children.push(...nodes); }
  replaceChildren(...nodes) { this.children = nodes; }
  addEventListener(name, call) { this.on[name] = call; }
}
const byId = {};
for (const id of ["data", "flame", "quantity", "trail", "told", "flame-view"]) byId[id] = new Element();
globalThis.document = { getElementById: (id) => byId[id], createElement: () => new Element() };
const input = JSON.parse(require("fs").readFileSync(0, "utf-8"));
byId.data.textContent = input.data;
new Function(input.script)();
const boxes = () => byId.flame.children.map((b) => [b.className, b.textContent, parseFloat(b.style.left),
  parseFloat(b.style.width), b.title]);
const options = byId.quantity.children.map((option) => option.textContent);
const out = { first: boxes(), options, hidden: byId["flame-view"].hidden };
byId.quantity.value = "1"; byId.quantity.on.change(); out.rounds = boxes();
byId.flame.children.find((b) => b.textContent.startsWith("1 ")).on.click(); out.zoomed = boxes();
out.trail = byId.trail.children.map((b) => b.textContent);
byId.flame.children.find((b) => b.textContent.startsWith("aten")).on.click();
out.deeper = byId.trail.children.map((b) => b.textContent);
byId.trail.children[0].on.click(); out.back = boxes();
process.stdout.write(JSON.stringify(out));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript engine here")
def test_the_script_draws_and_zooms() -> None:
    page = Page(small().to_html())
    script = files("torchveil.profiling").joinpath("flame.js").read_text(encoding="utf-8")
    done = subprocess.run(
        ["node", "-e", BROWSER],
        input=json.dumps({"script": script, "data": json.dumps(page.data())}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    drawn = json.loads(done.stdout)
    assert drawn["hidden"] is False
    assert drawn["options"] == [quantity["name"] for quantity in page.data()["quantities"]]

    def width(boxes: list[list[Any]], name: str) -> float:
        return float(next(box[3] for box in boxes if box[1].startswith(name + " ")))

    assert width(drawn["first"], "session") == 100
    assert width(drawn["first"], "Net") == pytest.approx(100 * 6 / 6.51)
    assert width(drawn["first"], "truncate") == pytest.approx(100 / 6.51)
    # by rounds: 1 in Net.body.0, 2 in Net.body.1; inputs have none, so they are not drawn
    assert width(drawn["rounds"], "0") == pytest.approx(100 / 3)
    assert width(drawn["rounds"], "1") == pytest.approx(200 / 3)
    assert not [box for box in drawn["rounds"] if box[1].startswith("(")]
    assert drawn["zoomed"][0][1] == "1 2" and drawn["zoomed"][0][3] == 100
    assert drawn["trail"] == ["session ›", "Net ›", "body ›"]
    assert drawn["deeper"] == ["session ›", "Net ›", "body ›", "1 ›"]
    assert drawn["back"] == drawn["rounds"]
    assert "bytes sent by a party: 200 B" in drawn["first"][0][4]
