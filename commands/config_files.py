"""Find config files: a path, or the name of one that ships with the package."""

from pathlib import Path

import yaml

from ..errors import RectifyError, did_you_mean

SHIPPED = Path(__file__).parent.parent / "configs"


def find_config(name: str) -> str:
    """Return the path of a config given as a path (`my.yaml`) or by name (`quickstart`, `objective/fmix`).

    Raises:
        RectifyError: there is no such file, or it is a URL.
    """
    if "://" in name:
        raise RectifyError(f"--config {name}: configs are not read from URLs; give a local file.")
    if Path(name).is_file():
        _check_syntax(name)
        return name
    relative = name.removeprefix("configs/").removesuffix(".yaml")
    shipped = SHIPPED / f"{relative}.yaml"
    if shipped.is_file():
        return str(shipped)
    known = [str(path.relative_to(SHIPPED).with_suffix("")) for path in SHIPPED.rglob("*.yaml")]
    by_stem = [path for path in known if path.rsplit("/", 1)[-1] == relative]
    if len(by_stem) == 1:
        return str(SHIPPED / f"{by_stem[0]}.yaml")
    raise RectifyError(f"--config {name}: there is no such file.{did_you_mean(relative, known)}")


def _check_syntax(path: str) -> None:
    """Name the file and line of a YAML mistake; the parser's own report knows neither."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise RectifyError(f"--config {path} is not valid YAML{line}: {getattr(error, 'problem', error)}.") from error
    if not isinstance(content, dict):
        raise RectifyError(f"--config {path} holds no keys; a config is a mapping such as `model: ...`.")


def resolve_configs(arguments: list[str]) -> list[str]:
    """Replace every config name in a command line by its path."""
    resolved, expects_config = [], False
    for argument in arguments:
        if expects_config:
            argument = find_config(argument)
        elif argument.startswith("--config="):
            argument = f"--config={find_config(argument.removeprefix('--config='))}"
        resolved.append(argument)
        expects_config = argument in ("-c", "--config")
    return resolved


def take_allowed(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split `--allow PACKAGE` off a command line; it is never read from YAML, or a config could allow itself."""
    rest, allowed, expects_package = [], [], False
    for argument in arguments:
        if expects_package:
            allowed.append(argument)
            expects_package = False
        elif argument == "--allow":
            expects_package = True
        elif argument.startswith("--allow="):
            allowed.append(argument.removeprefix("--allow="))
        else:
            rest.append(argument)
    if expects_package or not all(part.isidentifier() for name in allowed for part in name.split(".")):
        raise RectifyError("--allow needs the import name of your package, such as --allow my_project.")
    return rest, allowed
