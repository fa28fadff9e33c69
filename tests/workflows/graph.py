"""Descriptions of workflows and blueprints, in the forms that ComfyUI takes: the page's and the API's."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

CHOICE = "COMFY_DYNAMICCOMBO_V3"
"""A combo that brings inputs of its own with each choice; they are called after it, as `format.codec`."""
GROWING = "COMFY_AUTOGROW_V3"
"""Inputs of one kind, of which the page shows one more than are connected."""
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", CHOICE)
ELSEWHERE = {"codec", "format.codec"}
"""Inputs of Save Video: the first until 2026, the second since. The API's form names both, and each version reads its own."""


@dataclass(frozen=True)
class Ref:
    """Output `slot` of a node."""

    node: int
    slot: int = 0


@dataclass(frozen=True)
class Exposed(Ref):
    """An input of a blueprint: what is connected to it, or, for a widget, the value that it has until then."""

    kind: str = ""
    value: Any = None


@dataclass(frozen=True)
class Download:
    """A model that the page offers to download: `name` in the node's list, `directory` under ComfyUI's models."""

    name: str
    url: str
    directory: str


TITLE, GAP_BELOW, GAP_BESIDE = 30, 60, 60
SIZES = {
    "EmuVideoTinyModel": (280, 100), "EmuVideoStartingFrame": (320, 430), "EmuVideoApplyStack": (300, 120),
    "EmuVideoConditioning": (300, 380), "EmuVideoScheduler": (300, 120), "EmuVideoSampler": (300, 340),
    "EmuVideoInterpolate": (300, 390), "EmuVideoExtend": (300, 400), "EmuVideoLoop": (300, 400), "EmuVideoKeyframes": (300, 500),
    "EmuVideoPrompts": (320, 150), "EmuVideoContactSheet": (280, 180), "EmuVideoCompare": (300, 470),
    "EmuVideoAddToStudy": (320, 560), "EmuVideoEvaluate": (570, 760), "PrimitiveStringMultiline": (280, 130),
    "CLIPTextEncode": (280, 110), "LoadImage": (280, 330), "SaveVideo": (320, 400), "PreviewImage": (420, 340),
    "KSampler": (300, 290), "SamplerCustomAdvanced": (280, 140), "DualCFGGuider": (300, 190), "VAEDecode": (220, 60),
    "SVD_img2vid_Conditioning": (300, 300),
}  # fmt: skip
"""Width and height of a node without its title, of what is not (280, 120): as large as the larger of the page's two designs."""
ROOM = {
    "EmuVideoStartingFrame": 330, "EmuVideoSampler": 330, "EmuVideoInterpolate": 330, "EmuVideoExtend": 330,
    "EmuVideoLoop": 330, "EmuVideoKeyframes": 330, "KSampler": 260,
    "SamplerCustomAdvanced": 260, "EmuVideoAddToStudy": 80,
}  # fmt: skip
"""What a node grows by when it runs: the preview, and the text of what was taken."""


@dataclass
class Workflow:
    """A graph under construction. `add` puts a node below the others of its column; inputs are values, or `Ref`s to other nodes'
    outputs; `needs` is the model that it loads, if that has to be downloaded first. `title` is what the page's list of templates
    shows."""

    name: str
    title: str
    note: str
    nodes: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, column: int, title: str = "", needs: Download | None = None, size: Any = None, **inputs: Any) -> Ref:
        size = size or SIZES.get(kind, (280, 120))
        self.nodes.append({"kind": kind, "column": column, "size": size, "title": title, "inputs": inputs, "needs": needs})
        return Ref(len(self.nodes))

    def places(self) -> list[tuple[int, int]]:
        """Where each node is: columns from left to right, and in a column one below the other with room to grow."""
        columns = sorted({node["column"] for node in self.nodes})
        widths = [max(node["size"][0] for node in self.nodes if node["column"] == column) for column in columns]
        left = {column: sum(widths[:number]) + GAP_BESIDE * number for number, column in enumerate(columns)}
        top = dict.fromkeys(columns, 0)
        result = []
        for node in self.nodes:
            result.append((left[node["column"]], top[node["column"]]))
            top[node["column"]] += node["size"][1] + ROOM.get(node["kind"], 0) + TITLE + GAP_BELOW
        return result

    @property
    def downloads(self) -> list[Download]:
        """Models that have to be there before it runs."""
        return [node["needs"] for node in self.nodes if node["needs"] is not None]

    def api(self) -> dict[str, Any]:
        """The form that `/prompt` takes."""
        result = {}
        for number, node in enumerate(self.nodes, 1):
            inputs = {k: [str(v.node), v.slot] if isinstance(v, Ref) else v for k, v in node["inputs"].items()}
            title = node["title"] or node["kind"]
            result[str(number)] = {"class_type": node["kind"], "inputs": inputs, "_meta": {"title": title}}
        return result

    def page(self, info: dict[str, Any]) -> dict[str, Any]:
        """The form that the page saves and loads; `info` is `/object_info`."""
        links: list[list[Any]] = []
        nodes = self.page_nodes(info, links)
        note = {
            "id": len(nodes) + 1, "type": "MarkdownNote", "pos": [0, -280], "size": [640, 200], "flags": {}, "order": 0,
            "mode": 0, "inputs": [], "outputs": [], "title": "Emu Video", "properties": {}, "widgets_values": [self.note],
            "color": "#432", "bgcolor": "#653",
        }  # fmt: skip
        nodes.append(note)
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"emu-video/{self.name}")), "revision": 0, "last_node_id": len(nodes),
            "last_link_id": len(links), "nodes": nodes, "links": links, "groups": [], "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [120, 430]}}, "version": 0.4,
        }  # fmt: skip

    def page_nodes(self, info: dict[str, Any], links: list[list[Any]]) -> list[dict[str, Any]]:
        """The nodes in the page's form; their links are added to `links`, each [id, from, slot, to, slot, type]."""
        places = self.places()
        nodes = [self._page_node(number, node, places[number - 1], info, links) for number, node in enumerate(self.nodes, 1)]
        for link in links:
            if link[1] != INPUTS:
                nodes[link[1] - 1]["outputs"][link[2]]["links"].append(link[0])
        return nodes

    def kind_of(self, ref: Ref, info: dict[str, Any]) -> str:
        return ref.kind if isinstance(ref, Exposed) else info[self.nodes[ref.node - 1]["kind"]]["output"][ref.slot]

    def _page_node(
        self, number: int, node: dict[str, Any], place: tuple[int, int], info: dict[str, Any], links: list[list[Any]]
    ) -> dict[str, Any]:
        known = info[node["kind"]]
        declared = declared_inputs(known["input"], node["inputs"])
        assert node["inputs"].keys() <= declared.keys() | ELSEWHERE, (node["kind"], node["inputs"].keys() - declared.keys())
        inputs, values, rare = [], [], False
        for name, (kind, *rest) in shown_inputs(declared, node["inputs"]).items():
            options = rest[0] if rest else {}
            given = node["inputs"].get(name)
            is_widget = isinstance(kind, list) or kind in WIDGETS
            if isinstance(given, Ref) or not is_widget:
                entry: dict[str, Any] = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "link": None}
                if isinstance(given, Ref):
                    links.append([len(links) + 1, given.node, given.slot, number, len(inputs), self.kind_of(given, info)])
                    entry["link"] = len(links)
                if is_widget:
                    entry["widget"] = {"name": name}
                inputs.append(entry)
            if is_widget:
                value = given.value if isinstance(given, Exposed) else given
                values.append(default_of([kind, *rest]) if value is None or isinstance(value, Ref) else value)
                rare |= name in RARE and given is not None
                if options.get("control_after_generate"):
                    values.append("fixed")
                if options.get("image_upload"):
                    values.append("image")
        properties: dict[str, Any] = {"Node name for S&R": node["kind"]}
        if node["needs"] is not None:
            properties["models"] = [asdict(node["needs"])]
        outputs = [
            {"name": label, "type": kind, "links": []} for label, kind in zip(known["output_name"], known["output"], strict=True)
        ]
        return {
            "id": number, "type": node["kind"], "pos": list(place), "size": list(node["size"]), "flags": {}, "order": number,
            "mode": 0, "inputs": inputs, "outputs": outputs, "properties": properties,
            "widgets_values": values, **({"title": node["title"]} if node["title"] else {}),
            **({"showAdvanced": True} if rare else {}),
        }  # fmt: skip


INPUTS, OUTPUTS = -10, -20
"""Ends of a blueprint's inner links, as the page numbers them."""
CATEGORY = "Video generation and editing/Emu Video"


@dataclass
class Blueprint(Workflow):
    """A workflow as one node: `expose` makes its inputs, `outputs` are what it gives."""

    aliases: tuple[str, ...] = ()
    exposed: list[tuple[str, Exposed]] = field(default_factory=list)
    outputs: dict[str, Ref] = field(default_factory=dict)

    def expose(self, name: str, kind: str, value: Any = None) -> Exposed:
        self.exposed.append((name, Exposed(INPUTS, len(self.exposed), kind, value)))
        return self.exposed[-1][1]

    def page(self, info: dict[str, Any]) -> dict[str, Any]:
        """One node, and what is in it."""
        links: list[list[Any]] = []
        nodes = self.page_nodes(info, links)
        kinds = {name: self.kind_of(ref, info) for name, ref in self.outputs.items()}
        for slot, (name, ref) in enumerate(self.outputs.items()):
            links.append([len(links) + 1, ref.node, ref.slot, OUTPUTS, slot, kinds[name]])
            nodes[ref.node - 1]["outputs"][ref.slot]["links"].append(len(links))

        def key(name: str) -> str:
            return str(uuid.uuid5(uuid.NAMESPACE_URL, f"emu-video/blueprint/{self.name}/{name}"))

        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        inner_links = [dict(zip(names, link, strict=True)) for link in links]
        into = [[link[0] for link in links if link[1:3] == [INPUTS, slot]] for slot in range(len(self.exposed))]
        out = [[link[0] for link in links if link[3:5] == [OUTPUTS, slot]] for slot in range(len(self.outputs))]
        right = max(node["pos"][0] + node["size"][0] for node in nodes)
        inner = {
            "id": key(""), "version": 1, "revision": 0, "config": {}, "name": self.title, "category": CATEGORY,
            "description": self.note,
            "state": {"lastGroupId": 0, "lastNodeId": len(nodes), "lastLinkId": len(links), "lastRerouteId": 0},
            "inputNode": {"id": INPUTS, "bounding": [-240, 0, 120, 40 + 20 * len(into)]},
            "outputNode": {"id": OUTPUTS, "bounding": [right + 120, 0, 120, 40 + 20 * len(out)]},
            "inputs": [
                {"id": key(name), "name": name, "type": one.kind, "linkIds": ids, "pos": [-140, 20 + 20 * one.slot]}
                for (name, one), ids in zip(self.exposed, into, strict=True)
            ],
            "outputs": [
                {"id": key(f"{name} out"), "name": name, "type": kind, "linkIds": ids, "pos": [right + 140, 20 + 20 * slot]}
                for slot, ((name, kind), ids) in enumerate(zip(kinds.items(), out, strict=True))
            ],
            "widgets": [], "nodes": nodes, "groups": [], "links": inner_links, "extra": {},
        }  # fmt: skip
        inputs = [
            {"name": name, "type": one.kind, "link": None, **({} if one.value is None else {"widget": {"name": name}})}
            for name, one in self.exposed
        ]
        node = {
            "id": len(nodes) + 1, "type": inner["id"], "pos": [0, 0], "size": [320, 220], "flags": {}, "order": 0, "mode": 0,
            "inputs": inputs, "outputs": [{"name": name, "type": kind, "links": []} for name, kind in kinds.items()],
            "title": self.title, "properties": {}, "widgets_values": [],
        }  # fmt: skip
        return {
            "revision": 0, "last_node_id": node["id"], "last_link_id": 0, "nodes": [node], "links": [], "version": 0.4,
            "definitions": {"subgraphs": [inner]},
            "extra": {"BlueprintDescription": self.note, "BlueprintSearchAliases": list(self.aliases)},
        }  # fmt: skip


RARE = {"motion", "cond_fps", "motion_score", "fps_2", "fps_3", "fps_4"}
"""Inputs that Nodes 2.0 hides until one asks for them: a node of which a workflow sets one shows them at once."""


def default_of(spec: list[Any]) -> Any:
    """The value of a widget that nobody set."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    first = next(iter(kind if isinstance(kind, list) else options.get("options") or ()), None)
    return options.get("default", first["key"] if isinstance(first, dict) else first)


def declared_inputs(inputs: dict[str, Any], given: dict[str, Any], before: str = "") -> dict[str, Any]:
    """A node's inputs in the page's order; those that a choice brings stand behind it."""
    result = {}
    for name, spec in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
        if len(spec) > 1 and spec[1].get("hidden"):  # for prompts of before
            continue
        if spec[0] == GROWING:
            result |= {f"{name}.{one}": each for one, each in grown(spec[1]["template"]).items()}
            continue
        result[before + name] = spec
        if spec[0] == CHOICE:
            options = {option["key"]: option["inputs"] for option in spec[1]["options"]}
            result |= declared_inputs(options[given.get(before + name, next(iter(options)))], given, f"{before}{name}.")
    return result


def grown(template: dict[str, Any]) -> dict[str, Any]:
    """All inputs that a growing one may become."""
    (each,) = template["input"]["required"].values()
    return {f"{template['prefix']}{number}": each for number in range(template["max"])}


def shown_inputs(declared: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Without those that have not grown: of names with a dot that bring no widget, the connected ones stay and one more."""
    result, spare = {}, True
    for name, spec in declared.items():
        waiting = "." in name and spec[0] not in WIDGETS and not isinstance(spec[0], list) and name not in given
        if not waiting or spare:
            result[name] = spec
        spare = spare and not waiting
    return result
