"""List the miniature's files, with size and sha256, in artifacts/miniature.yml. Run it after training."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent.parent / "artifacts" / "miniature.yml"
HEAD = """# The local box's stand-ins for the model and for the upstream demos, out of local_box/miniature.
# Made by `make miniature-table`. No mirror has them: they come with the bundle.
"""


def table(artifact: str, folder: Path) -> str:
    """Return one artifact's table as YAML."""
    lines = [f"{artifact}:", "  files:"]
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            lines += [
                f"    - path: {path.relative_to(folder)}",
                f"      size: {path.stat().st_size}",
                f"      sha256: {sha256_of(str(path))}",
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(HEAD + table("miniature", HERE / "model") + "\n" + table("miniature-demos", HERE / "demos"))
