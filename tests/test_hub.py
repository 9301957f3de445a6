"""Tests of what goes to the Hub with a student: the model card, and the files without what names the machine."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from conftest import build_model
from datasets import Dataset
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from test_edit_trainer import make_trainer

from edit_trl import align
from edit_trl.drawings import draw_curves
from edit_trl.hub import public_files
from edit_trl.model_card import base_license, base_model_id, prompt_format, write_model_card


CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SCORES = {
    "before": {"sums": {"accuracy": 0.25, "num_right": 2, "num_questions": 8, "interval": [0.07, 0.59]}},
    "after stage 2 (KRSL)": {"sums": {"accuracy": 0.5, "num_right": 4, "num_questions": 8, "interval": [0.22, 0.78]}},
}


def snippet(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def run_snippet(card: str, model_name: str, folder: Path) -> str:
    """Run the code of a card, with the student's folder in place of its name on the Hub, and return the prompt."""
    code = snippet(card).replace(f'model="{model_name}"', f"model={str(folder)!r}").replace("=256", "=3")
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint('PROMPT', repr(prompt))"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split("PROMPT ")[-1].strip()


@pytest.fixture
def chat_tokenizer(tokenizer):
    before = tokenizer.chat_template
    tokenizer.chat_template = CHAT_TEMPLATE
    yield tokenizer
    tokenizer.chat_template = before


def messages(pairs: list[dict[str, str]], system: str | None = None) -> list[dict]:
    first = [{"role": "system", "content": system}] if system else []
    return [
        {
            "prompt": [*first, {"role": "user", "content": pair["prompt"]}],
            "chosen": [{"role": "assistant", "content": pair["chosen"]}],
            "rejected": [{"role": "assistant", "content": pair["rejected"]}],
        }
        for pair in pairs
    ]


class TestModelCard:
    def test_of_a_trained_adapter(self, tmp_path, pairs, model_folder, tokenizer):
        trainer = make_trainer(
            tmp_path, pairs, model_folder, tokenizer, max_steps=3, logging_steps=1, learning_rate=2e-4,
            rejected_key_weight=0.1, peft_config=LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
        )  # fmt: skip
        folder = Path(trainer.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scores.json").write_text(json.dumps(SCORES))
        trainer.train()
        trainer.save_model()
        trainer.create_model_card(model_name="my-student", dataset_name="somebody/pairs", tags="maths")
        text = (folder / "README.md").read_text()
        card = ModelCard(text)
        assert set(card.data.tags) == {"generated_from_trainer", "trl", "edit", "maths"}
        assert (card.data.library_name, card.data.datasets, card.data.model_name) == (
            "peft",
            "somebody/pairs",
            "my-student",
        )
        assert card.data.base_model is None  # a folder without a card
        (result,) = card.data.eval_results
        assert (result.dataset_name, result.metric_value) == ("sums", 0.5)
        assert result.metric_args == {"questions": 8, "interval_95": [0.22, 0.78]}
        for expected in (
            "A LoRA adapter of `tiny-llama`",
            "[somebody/pairs](https://huggingface.co/datasets/somebody/pairs)",
            "| learning rate | 0.0002, `constant` |",
            "| steps | 3 |",
            "| weight of key tokens of wrong chains, β | 0.1 |",
            "LoRA: r 4, lora_alpha 16, lora_dropout 0.0; `q_proj`, `v_proj`",
            "| sums | 8 | 25 (7 to 59) | 50 (22 to 78) |",
            "2025.acl-long.21",
            "{2405.19737}",
            "[edit-trl](https://pypi.org/project/edit-trl/)",
            "{{TRL: Transformers Reinforcement Learning}}",
        ):
            assert expected in text, expected
        shares = [log["edit/key_token_ratio_chosen"] for log in trainer.state.log_history if "loss" in log]
        assert f"{sum(shares) / len(shares):.1%} and" in text
        assert "None" not in text and str(tmp_path) not in text and str(Path(model_folder).parent) not in text
        settings = json.loads((folder / "training.json").read_text())
        losses = [[log["step"], log["loss"]] for log in trainer.state.log_history if "loss" in log]
        assert settings["curves"]["loss"] == losses and len(losses) == 3
        ElementTree.parse(folder / "training.svg")
        prompt = run_snippet(text, "my-student", folder)
        assert prompt == repr("Q: What is 17 + 25 - 8?\nA:")

    def test_of_messages(self, tmp_path, pairs, chat_tokenizer):
        trainer = make_trainer(tmp_path, messages(pairs, "Be brief."), build_model(), chat_tokenizer)
        trainer.save_model()
        trainer.create_model_card()
        folder = Path(trainer.args.output_dir)
        text = (folder / "README.md").read_text()
        assert "fine-tuned version of a model without a name that answers messages" in text
        assert "This student was not evaluated" in text
        assert "Be brief" not in text and "12 + 30" not in text  # no row of the data
        assert "'role': 'user'" in run_snippet(text, folder.name, folder)

    def test_both_stages_and_where_the_base_model_is_from(self, tmp_path, pairs, tokenizer):
        """Full fine-tuning from the folder of stage 1, whose card names the base model and its licence."""
        sft = tmp_path / "student" / "sft"
        model = build_model()
        model.save_pretrained(sft)
        tokenizer.save_pretrained(sft)
        (sft / "README.md").write_text("---\nbase_model: HuggingFaceTB/SmolLM2-135M\nlicense: apache-2.0\n---\n")
        trainer = make_trainer(tmp_path, pairs, str(sft), tokenizer)
        write_model_card(trainer)
        (sft / "training.json").write_text(json.dumps({
            **json.loads((tmp_path / "student" / "training.json").read_text()),
            "name": "stage 1: SFT", "learning_rate": 0.125, "curves": {"loss": [[1, 2.0], [2, 1.0]]},
        }))  # fmt: skip
        write_model_card(trainer)
        text = (tmp_path / "student" / "README.md").read_text()
        data = ModelCard(text).data
        assert (data.base_model, data.license) == ("HuggingFaceTB/SmolLM2-135M", "apache-2.0")
        assert data.to_dict()["base_model_relation"] == "finetune"
        assert "| | stage 1: SFT | stage 2: KRSL |" in text
        assert "| learning rate | 0.125, `constant` |" in text
        assert "(https://huggingface.co/HuggingFaceTB/SmolLM2-135M) (from a local copy)" in text
        assert "stage 1: SFT, loss" in (tmp_path / "student" / "training.svg").read_text()

    @pytest.mark.parametrize(
        ("prompts", "expression"),
        [
            (["Q: How many?\nA:", "Q: Who?\nA:"], r"'Q: ' + question + '\nA:'"),
            (["Q: What is 1?\nA:", "Q: What is 2?\nA:"], r"'Q: ' + question + '\nA:'"),
            (["<user> How?", "<user> Who?"], "'<user> ' + question"),
            (["How many? Answer:", "Who? Answer:"], "question + ' Answer:'"),
            (["How many?", "Who?"], "question"),
            (["Q: How?\nA:"], "question"),
        ],
    )
    def test_form_of_prompts(self, tokenizer, prompts, expression):
        class Trainer:
            processing_class = tokenizer
            train_dataset = Dataset.from_list([{"prompt_ids": tokenizer(text)["input_ids"]} for text in prompts])

        assert prompt_format(Trainer())[:2] == (False, expression)

    def test_form_of_data_of_stage_1(self, tokenizer):
        rows = []
        for question in ("How many", "Who"):
            prompt, answer = (tokenizer(text)["input_ids"] for text in (f"Q: {question}?\nA:", " Two."))
            rows.append({"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)})

        class Trainer:
            processing_class = tokenizer
            train_dataset = Dataset.from_list(rows)

        assert prompt_format(Trainer())[1] == r"'Q: ' + question + '\nA:'"

    def test_base_model(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("mine").mkdir()
        assert base_model_id("mine") is None and base_license("mine") is None
        Path("mine/README.md").write_text("no metadata")
        assert base_model_id("mine") is None
        Path("mine/README.md").write_text("---\nbase_model:\n- owner/name\nlicense: mit\n---\n")
        assert base_model_id("mine") == "owner/name" and base_license("mine") == "mit"
        Path("mine/README.md").write_text("---\nbase_model: mine\n---\n")  # a folder that names itself
        assert base_model_id("mine") is None
        assert base_model_id(None) is None and base_model_id("/gone/model") is None
        assert base_license("owner/no-network") is None


class TestPublicFiles:
    def test_leaves_out_and_rewrites(self, tmp_path):
        student, base = tmp_path / "student", tmp_path / "models" / "base"
        base.mkdir(parents=True)
        (base / "README.md").write_text("---\nbase_model: owner/base\n---\n")
        model = get_peft_model(build_model(), LoraConfig(target_modules=["q_proj"]))
        model.peft_config["default"].base_model_name_or_path = str(base)
        model.save_pretrained(student)
        for name in (
            *("training_args.bin", "runs/host/events.out.tfevents.1.host", "_incomplete/x", "checkpoint-3/x"),
            *("sft/checkpoint-2/x", "sft/training_args.bin", "wandb/run", "events.out.tfevents.2.host"),
        ):
            (student / name).parent.mkdir(parents=True, exist_ok=True)
            (student / name).write_text("secret")
        state = {"best_model_checkpoint": str(student / "checkpoint-3"), "log_history": [{"step": 1, "loss": 0.5}]}
        (student / "trainer_state.json").write_text(json.dumps(state))
        (student / "sft" / "README.md").write_text("card")
        (student / "broken.json").write_text("{")
        files = public_files(student)
        assert files.keys() == {
            *("README.md", "adapter_config.json", "adapter_model.safetensors", "broken.json", "sft/README.md"),
            "trainer_state.json",
        }
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "owner/base"
        assert json.loads(files["trainer_state.json"]) == {**state, "best_model_checkpoint": "checkpoint-3"}
        assert files["adapter_model.safetensors"] == student / "adapter_model.safetensors"
        # The folder itself is as it was: the student loads from it.
        assert json.loads((student / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)

    def test_a_relative_folder_too(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("models/base").mkdir(parents=True)
        Path("student").mkdir()
        Path("student/adapter_config.json").write_text('{"base_model_name_or_path": "models/base", "other": "models"}')
        (content,) = public_files("student").values()
        assert json.loads(content) == {"base_model_name_or_path": "base", "other": "models"}


class TestAlignmentDrawing:
    @given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30))
    def test_cells_and_spans(self, chosen, rejected):
        """A cell for each token, coloured if it is key; each shared span joins cells of the same number."""
        alignment = align(chosen, rejected)
        shown = ElementTree.fromstring(f"<div>{alignment._repr_html_()}</div>")
        kind, _, image = shown.find("img").get("src").partition(",")
        assert kind == "data:image/svg+xml;base64"
        page = ElementTree.fromstring(base64.b64decode(image))
        name = "{http://www.w3.org/2000/svg}"
        cells = [rect.get("fill") for rect in page.iter(f"{name}rect")][1:]
        assert len(cells) == len(chosen) + len(rejected)
        assert cells.count("#2c8a3f") == sum(alignment.chosen_key)
        assert cells.count("#c03a3a") == sum(alignment.rejected_key)
        for polygon in page.iter(f"{name}polygon"):
            a, b, c, d = (tuple(map(float, point.split(","))) for point in polygon.get("points").split())
            assert b[0] - a[0] == pytest.approx(c[0] - d[0], abs=0.21) and b[0] > a[0]
        assert f"{alignment.distance} edits" in shown.find("p").text


class TestCurves:
    def test_points_are_where_they_belong(self):
        """The ends of the axes are the ticks around the values; between them places grow linearly."""
        image = ElementTree.fromstring(draw_curves({"a < b": [(0, 1.0), (5, 3.0), (10, 2.0)], "empty": []}, "step"))
        name = "{http://www.w3.org/2000/svg}"
        points = [tuple(map(float, p.split(","))) for p in image.find(f".//{name}polyline").get("points").split()]
        (x1, y1), (x2, y2), (x3, y3) = points
        assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and x1 < x2
        assert y1 - y2 == pytest.approx(2 * (y1 - y3), abs=0.2) and y2 < y3 < y1  # y grows downwards
        texts = [element.text for element in image.iter(f"{name}text")]
        assert {"a < b", "empty", "step", "1", "3", "0", "10"} <= set(texts)

    @pytest.mark.parametrize(
        "values",
        [
            *(
                [1.0],
                [0.0, 0.0],
                [float("nan"), 2.0],
                [-1e-9, 1e9],
                [5e-324, 1.0],
                [],
                [0.3, 0.1 + 0.2],
                [7e-13, 9e-13],
            ),
            *([1e16, 1e16 + 2], [5e-324, 1e-323], [-1e300, 1e300], [0.0, 5e-324], [1e-5, 1e-5 * (1 + 1e-12)]),
        ],
    )
    def test_any_values(self, values):
        image = draw_curves({"loss": list(enumerate(values))}, "step")
        ElementTree.fromstring(image)
        numbers = [float(x) for x in re.findall(r"[-\d.]+(?=,)", "".join(re.findall(r'points="([^"]*)"', image)))]
        assert all(0 <= number <= 330 for number in numbers) and "nan" not in image
        labels = re.findall(r'text-anchor="end">([^<]*)<', image)
        assert len(set(labels)) == len(labels) or max(values) - min(values) < 1e-5 * max(values)


def test_a_student_of_nothing(tmp_path, pairs, model_folder, tokenizer):
    """Without training, and with a model in bf16."""
    trainer = make_trainer(tmp_path, pairs, build_model().to(torch.bfloat16), tokenizer)
    trainer.create_model_card()
    text = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert "| steps | 0 |" in text and "| parameters | bfloat16 |" in text and "training.svg" not in text
