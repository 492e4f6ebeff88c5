"""Let EleutherAI's lm-evaluation-harness run its tasks on an artifact, in the artifact's own runtime.

    python -m export.quality.lm_eval_model run --model qwen-edge --model_args artifact=build/... --tasks arc_easy

Everything behind `-m export.quality.lm_eval_model` is lm-eval's own command line; all this module adds is the model
`qwen-edge`. The package lm-eval is an extra (`pip install qwen-edge[lm-eval]`); it brings fifty others and fetches most
tasks' data from the Hub.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from export.errors import QualityError
from export.quality.scoring import Scorer
from runtimes.artifact import find_artifact
from runtimes.generate import Settings, generate
from runtimes.runner import open_runner
from runtimes.sampling import Sampling
from runtimes.template import load_template
from runtimes.tokenizer import load_tokenizer

NAME = "qwen-edge"
MAX_NEW_TOKENS = 256


class ArtifactModel(TemplateLM):
    """An artifact as lm-eval sees a model; batch sizes and devices mean nothing to it."""

    def __init__(
        self,
        artifact: str,
        runtime: str | None = None,
        threads: int | None = None,
        batch_size: int | str | None = None,  # noqa: ARG002 (lm-eval always passes these three)
        max_batch_size: int | None = None,  # noqa: ARG002
        device: str | None = None,  # noqa: ARG002
    ) -> None:
        super().__init__()
        self._artifact = find_artifact(Path(artifact), runtime)
        self._runner = open_runner(self._artifact, threads)
        self._text = load_tokenizer(self._artifact.tokenizer_file)
        self._scorer = Scorer(self._runner)

    @property
    def eot_token_id(self) -> int:
        """What stands before a text that has no context: the last of the ids that end one."""
        return self._artifact.manifest.eos_token_ids[-1]

    @property
    def tokenizer_name(self) -> str:
        return self._artifact.manifest.model

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:  # noqa: ARG002
        """Tokens of a text; Qwen's tokenizer adds none."""
        return self._text.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text; the answer is asked for without thinking first."""
        options = {"enable_thinking": False}
        template = load_template(self._artifact)
        return template.render(chat_history, add_generation_prompt=add_generation_prompt, options=options)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """What identifies the template in lm-eval's results; an artifact has one."""
        name = self._artifact.manifest.chat_template_file
        if not chat_template or name is None:
            return None
        return self._artifact.file(name).read_text(encoding="utf-8")

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Scores in the order asked for; neighbours that share a context, as choices do, share its run."""
        found = []
        for texts, context, continuation in requests:
            score = self._scorer.score(context, continuation)
            self.cache_hook.add_partial("loglikelihood", texts, score)
            found.append(score)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Log likelihood of whole texts, each token with as much in front of it as its window holds."""
        found = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._runner.context_length,
                context_len=1,
            )
            total = sum(self._scorer.score(*make_disjoint_window(window))[0] for window in windows)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            found.append(total)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Answers, each up to its first stop string."""
        found = []
        for request in requests:
            context, options = request.args
            text = self._answer(context, dict(options))
            self.cache_hook.add_partial("generate_until", request.args, text)
            found.append(text)
        return found

    def _answer(self, context: str, options: dict[str, Any]) -> str:
        most = min(int(options.pop("max_gen_toks", MAX_NEW_TOKENS)), self._runner.context_length - 1)
        stops = options.pop("until", None) or ()
        temperature = float(options.pop("temperature", 0.0)) if options.pop("do_sample", False) else 0.0
        top_p = float(options.pop("top_p", 1.0))
        options.pop("temperature", None)
        if options:
            raise QualityError(
                f"generation option {next(iter(options))!r} is not known here; a task may set until, max_gen_toks, "
                "do_sample, temperature and top_p"
            )
        settings = Settings(
            eos_token_ids=self._artifact.manifest.eos_token_ids,
            sampling=Sampling(temperature=temperature, top_p=top_p, seed=0),
            max_tokens=most,
            stop_strings=(stops,) if isinstance(stops, str) else tuple(stops),
        )
        prompt = self.tok_encode(context)[-(self._runner.context_length - most) :]
        self._runner.reset()
        return "".join(piece.text for piece in generate(self._runner, self._text, prompt, settings))


def main() -> None:
    """lm-eval's command line, with the model `qwen-edge` in it."""
    register_model(NAME)(ArtifactModel)
    cli_evaluate()


if __name__ == "__main__":
    main()
