"""What loads other people's files says each time that it runs none of them."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "ftd" / "worker"

_OFFLINE = {"local_files_only": True, "trust_remote_code": False}
_PEFT = {"local_files_only": True}
# What loads -> the arguments that each call must have, word for word.
RULES: dict[str, dict[str, object]] = {
    "AutoTokenizer.from_pretrained": _OFFLINE,
    "AutoConfig.from_pretrained": _OFFLINE,
    "AutoModelForCausalLM.from_pretrained": {**_OFFLINE, "use_safetensors": True},
    "AutoModelForCausalLM.from_config": {"trust_remote_code": False},
    "PeftModel.from_pretrained": _PEFT,
    "LoraConfig.from_pretrained": _PEFT,
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
}
# Nobody is to load by other ways, which have no flag or a worse default.
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load"),
    *("pickle.loads", "marshal.loads", "yaml.load", "joblib.load", "torch.hub.load"),
    *("torch.jit.load", "torch.export.load", "pipeline", "load_dataset"),
}
FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call and its name, as far as it has one: `torch.load`, `load`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def faults(source: str) -> list[str]:
    found = []
    for name, call in calls(source):
        given = {
            keyword.arg: keyword.value.value
            for keyword in call.keywords
            if isinstance(keyword.value, ast.Constant)
        }
        rule = RULES.get(name)
        if rule is None and name.endswith(".from_pretrained"):
            found.append(f"{name} has no rule")
        if name in FORBIDDEN_CALLS:
            found.append(f"{name} is called")
        for flag, value in (rule or {}).items():
            if flag not in given or given[flag] is not value:
                found.append(f"{name} without {flag}={value}")
        if any(keyword.arg == "shell" for keyword in call.keywords):
            found.append(f"{name} asks for a shell")
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        found += [f"{module} is imported" for module in modules if module in FORBIDDEN_MODULES]
    return found


@pytest.mark.parametrize(
    "path", sorted(WORKER.rglob("*.py")), ids=lambda path: str(path.relative_to(WORKER))
)
def test_every_call_says_that_it_runs_nothing(path: Path) -> None:
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "AutoTokenizer.from_pretrained(x)",
        "AutoTokenizer.from_pretrained(x, local_files_only=True, trust_remote_code=None)",
        "AutoTokenizer.from_pretrained(x, local_files_only=True, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(x, **flags)",
        "AutoModelForCausalLM.from_pretrained(x, local_files_only=True, trust_remote_code=False)",
        "AutoProcessor.from_pretrained(x, local_files_only=True, trust_remote_code=False)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "import pickle",
        "subprocess.run(x, shell=True)",
        "eval(x)",
    ],
)
def test_a_call_that_does_not_say_so_is_found(source: str) -> None:
    assert faults(source)


def test_there_is_no_library_that_fetches_kernels() -> None:
    """With it transformers runs code from the hub for some models, whatever its flags are."""
    assert importlib.util.find_spec("kernels") is None


def test_the_calls_are_found_where_they_are() -> None:
    found = {name for path in WORKER.rglob("*.py") for name, _ in calls(path.read_text())}
    assert {name for name in found if name.endswith(".from_pretrained")} <= RULES.keys()
    assert {"AutoTokenizer.from_pretrained", "PeftModel.from_pretrained"} <= found
