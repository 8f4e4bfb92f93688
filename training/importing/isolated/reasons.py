"""The reasons of ONNX's checker and of ONNX Runtime, in the words of who brought the file."""

import re
from collections.abc import Iterator

import onnx

from models.graph.builder import STANDARD_DOMAINS

_CHECKER: tuple[tuple[str, str], ...] = (
    (
        (
            r"No Op registered for (?P<op>\S+) with domain_version of (?P<version>\d+)(?s:.*?Name: "
            r"(?P<node>\S*))?"
        ),
        (
            "operator {op} of node '{node}' is none of ONNX's in opset {version}: export "
            "without it, "
            "or with an opset that has it"
        ),
    ),
    (
        r"ir_version (?P<found>\d+) is higher than the checker's \((?P<known>\d+)\)",
        (
            "it is of a newer ONNX than is installed here (IR version {found}, {known} is "
            "the newest "
            "known): export it with an older onnx package, or install a newer one here"
        ),
    ),
    (
        r"must specify opset_import|ir_version set properly",
        (
            "it is no ONNX model: it names no version of the operators; maybe it is cut off: "
            "copy or "
            "export it again"
        ),
    ),
    (
        r"topologically sorted, however input '(?P<tensor>[^']*)'",
        (
            "tensor '{tensor}' is read by a node before any node gives it, or by one that it "
            "is made "
            "of: the graph has a circle, or its nodes are out of order"
        ),
    ),
    (
        r"single static assignment \(SSA\) form, however '(?P<tensor>[^']*)'",
        "the name '{tensor}' is given twice: every tensor needs a name of its own",
    ),
    (
        r"Field '(?:type|shape)' of '(?:value_info|type)' is required",
        "an input or output has no type or shape: declare the type and shape of each",
    ),
    (
        r"tensor name: (?P<tensor>[^)]*?)\).*raw_data size \((?P<size>\d+) bytes\) is too small",
        (
            "the weights '{tensor}' hold only {size} bytes, less than their shape needs: the "
            "file is "
            "damaged: copy or export it again"
        ),
    ),
    (
        r"tensor name: (?P<tensor>[^)]*?)\) should be stored in (?P<path>.*), but it is not reg",
        "the weights '{tensor}' lie in {path}, and there is no such file: copy it there",
    ),
    (
        (r"(?:tensor name: (?P<tensor>[^)]*?)\)).*(?:relative path|points outside|symbolic link)"),
        (
            "the weights '{tensor}' lie in another file, which must be a plain file in the "
            "folder of "
            "the model or below it: copy it there"
        ),
    ),
    (
        (
            r"[Ee]xternal data .*for tensor '(?P<tensor>[^']*)'|tensor name: (?P<other>[^)]*?)\).*"
            r"(?:doesn't exist|not accessible|does not exist)"
        ),
        (
            "the weights '{tensor}{other}' lie in another file, which is not there or is too "
            "short: "
            "copy it beside the model"
        ),
    ),
    (
        r"exceeds maximum protobuf size|2 ?GiB|2147483647|too large|[Ff]ailed to serialize",
        "with its weights it is above 2 GiB, the most that is served",
    ),
    (
        r"parsing message|Protobuf|DecodeError|utf-8",
        "it is no ONNX file, or it is cut off or damaged: copy or export it again",
    ),
)
_RUNTIME: tuple[tuple[str, str], ...] = (
    (
        r"(?P<domain>[\w.]+):(?P<op>\w+)\(-?\d+\) is not a registered function/op",
        (
            "operator {op} of the domain {domain} is none that ONNX Runtime has: export with "
            "ONNX's "
            "own operators in its place{node}"
        ),
    ),
    (
        (
            r"Opset (?P<found>\d+) is under development.*official support for domain "
            r"(?P<domain>\S+) "
            r"is till opset (?P<known>\d+)"
        ),
        (
            "opset {found} is newer than ONNX Runtime knows here ({known} is the newest): "
            "export it "
            "with opset_version={known} or lower"
        ),
    ),
    (
        (
            r"NOT_IMPLEMENTED : Could not find an implementation for "
            r"(?P<op>\w+)\((?P<version>\d+)\) "
            r"node with name '(?P<node>[^']*)'"
        ),
        (
            "ONNX Runtime cannot compute operator {op} of node '{node}' on a CPU in the "
            "types it has "
            "there (float16 or bfloat16, often): export the model in float32"
        ),
    ),
    (
        (
            r"Type Error: Type parameter \(\w+\) of Optype \((?P<op>\w+)\) bound to different "
            r"types "
            r"\((?P<one>[^)]*\))(?: and |,)(?P<two>[^)]*\)) in node \((?P<node>[^)]*)\)"
        ),
        "operator {op} of node '{node}' gets {one} and {two}, which it does not take together",
    ),
    (
        r"Type Error: (?P<what>.*)",
        "the types of its tensors do not fit: {what}",
    ),
    (
        r"while running (?P<op>\w+) node\. Name:'(?P<node>[^']*)' Status Message: (?P<what>.*)",
        "ONNX Runtime stops at operator {op} of node '{node}': {what}",
    ),
)


def of_reading(reason: str) -> str:
    """Why a file cannot be read, from what its reader or the checker says."""
    return _first(_CHECKER, reason, {}) or f"it is no valid ONNX model: {_line(reason)}"


def of_running(reason: str, proto: onnx.ModelProto | None = None) -> str:
    """Why a graph cannot be opened or run, from what ONNX Runtime says."""
    known = {"node": ""}
    if proto is not None:
        other = next((n for n in proto.graph.node if n.domain not in STANDARD_DOMAINS), None)
        known["node"] = "" if other is None else f" (node '{other.name or other.output[0]}')"
    return _first(_RUNTIME, reason, known) or f"ONNX Runtime refuses it: {_line(reason)}"


def _first(table: tuple[tuple[str, str], ...], reason: str, known: dict[str, str]) -> str | None:
    for pattern, text in table:
        match = re.search(pattern, reason)
        if match is not None:
            named = {name: _line(found or "") for name, found in match.groupdict().items()}
            # Many exporters leave their nodes without names.
            return text.format_map(known | named).replace(" of node ''", "")
    return None


def _line(reason: str) -> str:
    """The first line that says something, without the places in the runtime's own code."""
    for line in _cleaned(reason):
        return line if len(line) <= 300 else line[:297] + "..."
    return "" if not reason.strip() else reason.strip()[:300]


def _cleaned(reason: str) -> Iterator[str]:
    text = re.sub(r"^\w+(?:Error)?: (?=\[ONNXRuntimeError\])|^\w+Error: ", "", reason.strip())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S+\.(?:cc|h):\d+ (?:[\w:<>~]+ )?[^\n]*?\) (?=\S)", "", text)
    text = re.sub(r"\b\w+\.(?:cc|h):\d+ (?:\w+ )?", "", text)
    for line in text.splitlines():
        if line.strip():
            yield line.strip()
