"""
The reports of `training_step.py`: a Markdown table and a bar chart.
"""

from typing import Any

import numpy as np
import reporting


# The layouts that compute the loss of EDIT. The others are baselines.
EDIT_LAYOUTS = ("full_logits", "padded", "shared_prefix", "packed", "padding_free")


def format_report(report: dict[str, Any]) -> str:
    """The report as a Markdown table with its circumstances."""
    machine, settings, pairs = report["machine"], report["settings"], report["pairs"]
    model = [settings["model"], settings["dtype"]]
    model += [name for name in ("autocast", "gradient_checkpointing") if settings[name]]
    bases = [base for base in ("full_logits", "sft") if base in report["layouts"]]
    header = ["layout", "tokens", "with padding", "projected", "wall s (quartiles)", "CPU s"]
    header += [f"÷ `{base}`" for base in bases]
    header += ["peak MiB", "growth MiB"] if settings["memory"] else []
    lines = [
        f"Model: {', '.join(model)}. Pairs: {pairs['num_pairs']}, in batches of up to {settings['pairs']}; prompt "
        f"{pairs['mean_prompt_tokens']:.0f} and chain {pairs['mean_chain_tokens']:.0f} tokens on average, "
        f"{pairs['common_start']:.1%} of the completions common start, {pairs['key_ratio']:.1%} key tokens, "
        f"γ = {settings['chosen_other_weight']:g}. Machine: {machine['accelerator'] or machine['cpu']}, "
        f"{machine['cores']} cores, {machine['threads']} threads; torch {machine['torch']}, transformers "
        f"{machine['transformers']}, trl {machine['trl']}. Repeats: {settings['repeats']}.",
        "",
    ]
    rows = []
    for name, entry in report["layouts"].items():
        wall = entry["wall_seconds"]
        cells = [f"`{name}`"]
        cells += [f"{entry[key]:,}" for key in ("tokens", "tokens_with_padding", "projected_positions")]
        cells.append(f"{wall['median']:.3f} ({wall['lower_quartile']:.3f}–{wall['upper_quartile']:.3f})")
        cells.append(f"{entry['cpu_seconds']['median']:.3f}")
        for base in bases:
            ratios = entry[f"wall_ratio_to_{base}"]
            cells.append(f"{ratios['of_medians']:.2f} ({ratios['median_of_repeats']:.2f})")
        if settings["memory"]:
            cells += [f"{entry['memory'][key]:,.0f}" for key in ("peak_mib", "growth_mib")]
        rows.append(cells)
    lines += [reporting.markdown_table(header, rows), ""]
    lines += ["Ratios of the medians of wall seconds; in brackets, the median of the ratios of single repeats."]
    if report["largest_loss_difference"] is not None:
        losses = [f"{name} {e['loss']:.6f}" for name, e in report["layouts"].items() if name in EDIT_LAYOUTS]
        difference = report["largest_loss_difference"]
        lines.append(f"Losses: {', '.join(losses)}; largest difference {difference:.1e}.")
    for name in [name for name in ("packed", "shared_prefix") if name in report["layouts"]][:1]:
        entry = report["layouts"][name]
        of_step = 1 / entry["cpu_seconds"]["median"]
        lines.append(
            f"Collating for `{name}`: {entry['collate_seconds']:.4f} CPU s, "
            f"{entry['collate_seconds'] * of_step:.2%} of its step; alignment {pairs['align_seconds']:.4f} CPU s, "
            f"{pairs['align_seconds'] * of_step:.2%}."
        )
    return "\n".join(lines)


def plot_report(report: dict[str, Any], file: str) -> None:
    """Draw the median seconds of a step as bars, with quartiles."""
    pyplot = reporting.import_pyplot()
    names = list(report["layouts"])
    spreads = [report["layouts"][name]["wall_seconds"] for name in names]
    medians = np.array([spread["median"] for spread in spreads])
    ends = np.array([[spread[end] for spread in spreads] for end in ("lower_quartile", "upper_quartile")])
    colors = ["C0" if name in EDIT_LAYOUTS else "C7" for name in names]
    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(names) + 1.2), layout="constrained")
    axes.bar_label(axes.barh(names, medians, xerr=abs(ends - medians), color=colors), fmt="%.2f", padding=6)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"seconds, forward and backward, {report['pairs']['num_pairs']} pairs")
    axes.set_title(f"{report['settings']['model']}, {report['machine']['accelerator'] or report['machine']['cpu']}")
    figure.savefig(file, dpi=150)
