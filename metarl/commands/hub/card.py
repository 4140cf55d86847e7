"""The model card of an agent in the hub's format: a head of YAML, then the card as it is here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from metarl.base.errors import quoted
from metarl.base.files import read_json
from metarl.commands.hub.client import CARD
from metarl.report.run_summary import RESULT

TAGS = (
    "reinforcement-learning",
    "meta-reinforcement-learning",
    "meta-learning",
    "robotics",
    "mujoco",
)
SPLIT_WORDS = {"heldout": "held-out tasks", "ood": "tasks outside the training box"}
_NAMED = re.compile(r"^metarl adapt (\S+|'[^']*')", re.M)


def hub_card(folder: Path, repo: str, licence: str | None, video: str | None) -> str:
    """Return the card of an agent's folder for a repository.

    Args:
        folder: of the agent.
        repo: OWNER/NAME, by which the card's commands then name the agent.
        licence: of the weights, by the hub's name for it, such as mit; None says nothing.
        video: name of a file to show, or None.
    """
    from huggingface_hub import ModelCardData

    result = read_json(folder / RESULT)
    head = ModelCardData(
        library_name="metarl", license=licence, pipeline_tag="reinforcement-learning",
        tags=[*TAGS, result["family"], result["algorithm"]], model_name=repo.partition("/")[2],
        eval_results=eval_results(result),
    )  # fmt: skip
    text = (folder / CARD).read_text(encoding="utf-8")
    text = text.partition("\n---\n")[2].lstrip() if text.startswith("---\n") else text
    if named := _NAMED.search(text):
        command = re.compile(rf"^(metarl \w+) {re.escape(named[1])}(?=\s)", re.M)
        text = command.sub(rf"\1 {quoted(repo)}", text)
    text = text.replace("```sh\n", f"```sh\nmetarl pull {quoted(repo)}\n", 1)
    if video is not None:
        shown = f"![It adapts]({video})" if video.endswith(".gif") else (
            f'<video src="./{video}" controls autoplay loop muted></video>'
        )  # fmt: skip
        title, _, rest = text.partition("\n")
        text = f"{title}\n\n{shown}\n{rest}"
    return f"---\n{head.to_yaml()}\n---\n\n{text}"


def eval_results(result: dict[str, Any]) -> list[Any]:
    """Return the mean returns of a result file as the hub's EvalResults: first and last round."""
    from huggingface_hub import EvalResult

    found = []
    for split in SPLIT_WORDS:
        report = result if split == "heldout" else result.get("ood")
        if report is None:
            continue
        for k, shot in ((0, "zero-shot"), (-1, f"{report['experience'][-1]}-shot")):
            if report["mean"][k] is None or (k and len(report["mean"]) == 1):
                continue
            found.append(
                EvalResult(
                    task_type="reinforcement-learning",
                    task_name="meta-reinforcement-learning",
                    dataset_type=result["family"],
                    dataset_split=split,
                    dataset_name=f"{result['family']}, {SPLIT_WORDS[split]}",
                    metric_type="mean_reward",
                    metric_name=f"mean return, {shot}",
                    metric_value=round(float(report["mean"][k]), 3),
                )
            )
    return found
