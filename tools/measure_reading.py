"""How well the tiny model reads pictures of words in a font that it was not trained on: float eager and an artifact.

`python tools/measure_reading.py ARTIFACT --count 400`. Both answer the same question on the same pictures, greedily; an
answer is right if it holds the word. The float side is transformers in float32 with its own image processor.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from export.models.tiny import card, reading
from export.models.tiny.reading import Picture
from runtimes.artifact import Artifact
from runtimes.chat import expand_images, user_message
from runtimes.generate import Settings, generate
from runtimes.runner import open_runner
from runtimes.template import load_template
from runtimes.tokenizer import Tokenizer, load_tokenizer
from runtimes.vision.prepare import prepared
from runtimes.vision.prompt import SeeingRunner

CHECKPOINT = Path(card.__file__).parent
MOST_TOKENS = 8
SEED = 11

Answer = Callable[[Picture], str]


def pictures(count: int) -> list[Picture]:
    """Words in turn, in the font that training never saw, on canvases in turn."""
    rng = Random(SEED)
    words, canvases = reading.WORDS, reading.CANVASES
    return [
        reading.draw_word(
            rng, canvases[number // len(words) % len(canvases)], (reading.HELD_OUT,), word=words[number % len(words)]
        )
        for number in range(count)
    ]


def by_artifact(artifact: Artifact) -> Answer:
    """The answers of an artifact in our runner."""
    assert artifact.manifest.vision is not None, "the artifact sees no images"
    runner, tokenizer = cast(SeeingRunner, open_runner(artifact, 1)), load_tokenizer(artifact.tokenizer_file)
    template = load_template(artifact)
    settings = Settings(eos_token_ids=artifact.manifest.eos_token_ids, max_tokens=MOST_TOKENS)

    def answer(picture: Picture) -> str:
        runner.reset()
        seen = [runner.see(image) for image in prepared([np.asarray(picture.image)], runner.vision.images)]
        text = template.render([user_message(reading.QUESTION, seen)], options={"enable_thinking": False})
        tokens = tokenizer.encode(expand_images(text, seen, tokenizer, runner))
        return "".join(piece.text for piece in generate(runner, tokenizer, tokens, settings, images=seen))

    return answer


def by_transformers(artifact: Artifact) -> Answer:
    """The answers of the float checkpoint."""
    model: Any = card.load(CHECKPOINT)
    tokenizer, template = load_tokenizer(artifact.tokenizer_file), load_template(artifact)
    processor = Qwen2VLImageProcessorPil.from_pretrained(CHECKPOINT)
    pad = model.config.image_token_id
    placeholder = tokenizer.token_text(pad) or ""

    @torch.no_grad()
    def answer(picture: Picture) -> str:
        image = processor(images=[picture.image], return_tensors="pt")
        count = int(image["image_grid_thw"].prod()) // 4
        item = {"type": "image"}
        message = {"role": "user", "content": [item, {"type": "text", "text": reading.QUESTION}]}
        text = template.render([message], options={"enable_thinking": False}).replace(placeholder, placeholder * count)
        ids = torch.tensor([tokenizer.encode(text)])
        found = model.generate(
            input_ids=ids, mm_token_type_ids=(ids == pad).int(), **image, do_sample=False, max_new_tokens=MOST_TOKENS
        )
        return _decoded(tokenizer, found[0, ids.shape[1] :].tolist())

    return answer


def _decoded(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return tokenizer.decode(tokens)


def right(answer: str, picture: Picture) -> bool:
    """Whether the answer names the word."""
    return picture.word in answer.replace(".", " ").split()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--count", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    artifact = Artifact.open(arguments.artifact)
    shown = pictures(arguments.count)
    sides = {"float eager": by_transformers(artifact), "artifact": by_artifact(artifact)}
    answers = {name: [answer(picture) for picture in shown] for name, answer in sides.items()}
    for name, found in answers.items():
        score = sum(right(answer, picture) for answer, picture in zip(found, shown, strict=True))
        print(f"{name}: {score} of {len(shown)} right ({score / len(shown):.1%})")
    same = sum(one == other for one, other in zip(*answers.values(), strict=True))
    print(f"same answer: {same} of {len(shown)}")


if __name__ == "__main__":
    main()
