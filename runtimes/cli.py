"""The command line of the runners: chat with an artifact, generate from it, verify it.

The only module here that prints or decides an exit status: 0 done, 1 a named error or a failed check, 2 usage.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from runtimes.artifact import Artifact, find_artifact
from runtimes.chat import Conversation, expand_images, images_of, user_message
from runtimes.errors import ImageError, ProjectError, TokenizerError
from runtimes.events import LoadEnd, LoadStart, Sink, ignore, json_lines
from runtimes.generate import Piece, Settings, generate
from runtimes.runner import Runner, known_runtimes, open_runner
from runtimes.sampling import Sampling
from runtimes.template import load_template
from runtimes.tokenizer import Tokenizer, load_tokenizer
from runtimes.verify import Check, Report, verify
from runtimes.vision.prepare import read_image
from runtimes.vision.prompt import SeeingRunner, SeenImage

INTERRUPTED = 130
EXAMPLES = """\
examples:
  python -m runtimes chat build/tiny-android
  python -m runtimes chat build/tiny-android --runtime onnxruntime --temperature 0.7 --top-p 0.9 --seed 1
  python -m runtimes generate build/tiny-android/onnx --prompt "Once upon a time" --raw --max-tokens 50
  python -m runtimes generate build/tiny-android/onnx --prompt "Hello" --events events.jsonl --json
  python -m runtimes generate build/tiny-eyes/onnx --image photo.jpg --prompt "What is this?"
  python -m runtimes verify build/tiny-android/onnx

ARTIFACT is a directory with a manifest.json, or a bundle that holds several of them: then --runtime chooses.
"""
CHAT_HELP = (
    "/regen another answer · /edit TEXT change your last message · /image FILE show it with your next message · "
    "/reset start over · /quit leave"
)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An artifact that is ready to run."""

    artifact: Artifact
    runner: Runner
    tokenizer: Tokenizer


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    arguments = build_parser().parse_args(argv)
    commands = {"chat": _chat, "generate": _generate, "verify": _verify}
    try:
        return commands[arguments.command](arguments)
    except ProjectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read us has left: say no more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m runtimes", description="Run and check artifacts.", epilog=EXAMPLES, formatter_class=formatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{chat,generate,verify}")
    chat = commands.add_parser("chat", help="talk to an artifact", epilog=CHAT_HELP, formatter_class=formatter)
    _add_common(chat)
    _add_sampling(chat)
    _add_template(chat)
    create = commands.add_parser("generate", help="answer one prompt", epilog=EXAMPLES, formatter_class=formatter)
    _add_common(create)
    _add_sampling(create)
    _add_template(create)
    for command in (chat, create):
        command.add_argument(
            "--image",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help="an image for the first message (repeatable; an artifact that sees is made with --modality image)",
        )
    create.add_argument("--prompt", help="the text to answer; without it, standard input is read")
    create.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    create.add_argument("--json", action="store_true", help="print one JSON object instead of the text")
    check = commands.add_parser("verify", help="prove that an artifact answers as its exporter recorded")
    _add_common(check)
    check.add_argument("--no-hashes", action="store_true", help="do not read every file to check its sha256")
    check.add_argument("--no-stock", action="store_true", help="do not compare with the runtime's own runner")
    check.add_argument("--json", action="store_true", help="print one JSON line a check, then one for the whole")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="an artifact's directory, or a bundle's")
    parser.add_argument("--runtime", choices=known_runtimes(), help="which artifact of a bundle")
    parser.add_argument("--threads", type=_positive, help="threads to run with (default: the fast cores here)")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    default = Sampling()
    group = parser.add_argument_group("sampling")
    group.add_argument("--temperature", type=float, default=default.temperature, help="0 is greedy (default)")
    group.add_argument("--top-k", type=int, default=default.top_k, help="draw from the K best tokens; 0: all (default)")
    group.add_argument("--top-p", type=float, default=default.top_p, help="draw from the best tokens that make up P")
    group.add_argument("--min-p", type=float, default=default.min_p, help="drop tokens below P times the best one")
    group.add_argument(
        "--repetition-penalty", type=float, default=default.repetition_penalty, help="1 is none (default)"
    )
    group.add_argument("--seed", type=int, help="the same seed draws the same tokens")
    group.add_argument("--max-tokens", type=_positive, help="end an answer after so many tokens")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text (repeatable)")
    group.add_argument("--events", type=Path, metavar="FILE", help="write what happened when, as JSON lines")


def _add_template(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("chat template")
    group.add_argument("--system", metavar="TEXT", help="a system message")
    group.add_argument(
        "--thinking", choices=("on", "off"), help="whether the model reasons first (default: the template's choice)"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _generate(arguments: argparse.Namespace) -> int:
    """Answer one prompt."""
    prompt = _unicode(arguments.prompt if arguments.prompt is not None else sys.stdin.read())
    with _event_sink(arguments.events) as emit:
        opened = _open(arguments, emit)
        images = [_see(opened, place) for place in arguments.image]
        tokens = opened.tokenizer.encode(_prompt_text(arguments, opened, prompt, images))
        settings = _settings(arguments, opened.artifact)
        answer = generate(opened.runner, opened.tokenizer, tokens, settings, emit, images)
        pieces = list(_echo(answer, quiet=arguments.json))
    if arguments.json:
        print(json.dumps(_answer(tokens, pieces), ensure_ascii=False))
    return 0


def _prompt_text(arguments: argparse.Namespace, opened: Opened, prompt: str, images: Sequence[SeenImage]) -> str:
    if arguments.raw:
        return expand_images(prompt, images, opened.tokenizer, opened.runner)
    system = [] if arguments.system is None else [{"role": "system", "content": _unicode(arguments.system)}]
    messages = [*system, user_message(prompt, images)]
    text = load_template(opened.artifact).render(messages, options=_template_options(arguments))
    return expand_images(text, images, opened.tokenizer, opened.runner)


def _see(opened: Opened, place: Path) -> SeenImage:
    """The image in a file, run through the artifact's vision tower."""
    vision = opened.artifact.manifest.vision
    if vision is None:
        raise ImageError(f"{opened.artifact.path}: sees no images; export with --modality image, or leave {place} out")
    return cast(SeeingRunner, opened.runner).see(read_image(place, vision.images))


def _answer(prompt: Sequence[int], pieces: Sequence[Piece]) -> dict[str, Any]:
    return {
        "text": "".join(piece.text for piece in pieces),
        "tokens": [piece.token for piece in pieces if piece.token is not None],
        "prompt_tokens": len(prompt),
        "stop": pieces[-1].stop if pieces else None,
    }


def _chat(arguments: argparse.Namespace) -> int:
    """Talk until the input ends."""
    with _event_sink(arguments.events) as emit:
        opened = _open(arguments, emit)
        conversation = Conversation(
            runner=opened.runner,
            tokenizer=opened.tokenizer,
            template=load_template(opened.artifact),
            settings=_settings(arguments, opened.artifact),
            system=None if arguments.system is None else _unicode(arguments.system),
            options=_template_options(arguments),
            emit=emit,
        )
        if sys.stdin.isatty():
            print(CHAT_HELP, file=sys.stderr)
        images = [_see(opened, place) for place in arguments.image]
        for line in _lines():
            if line == "/quit":
                break
            _converse(conversation, line, opened, images)
    return 0


def _converse(conversation: Conversation, line: str, opened: Opened, images: list[SeenImage]) -> None:
    """One line of input: a command or a message, which takes the images that wait for one.

    At a terminal an error ends the turn, not the chat.
    """
    command, _, rest = line.partition(" ")
    try:
        if line == "/reset":
            conversation.reset()
        elif line == "/regen":
            conversation.settings = _next_seed(conversation.settings)
            _show(conversation.regenerate())
        elif command == "/edit":
            _show(conversation.edit_last(_unicode(rest), images_of(conversation.messages[-2:])))
        elif command == "/image":
            images.append(_see(opened, Path(rest)))
        elif command.startswith("/"):
            print(CHAT_HELP, file=sys.stderr)
        elif line.strip():
            waiting = list(images)
            images.clear()
            _show(conversation.say(_unicode(line), waiting))
    except ProjectError as error:
        if not sys.stdin.isatty():
            raise
        print(f"error: {error}", file=sys.stderr)


def _show(pieces: Iterator[Piece]) -> None:
    """Stream an answer; ctrl-C ends it early and keeps what was said."""
    stream = _echo(pieces, quiet=False)
    try:
        for _ in stream:
            pass
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        print("\n(stopped)", file=sys.stderr)


def _echo(pieces: Iterator[Piece], *, quiet: bool) -> Iterator[Piece]:
    """Write text as it comes, and a newline at the end."""
    for piece in pieces:
        if not quiet:
            print(piece.text, end="", flush=True)
        yield piece
    if not quiet:
        print(flush=True)


def _lines() -> Iterator[str]:
    """Lines of input, with a prompt at a terminal."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return


def _verify(arguments: argparse.Namespace) -> int:
    """Run every check and say how each ended."""
    artifact = find_artifact(arguments.artifact, arguments.runtime)
    is_manifest = Path(arguments.artifact).is_file()
    show = _print_check_json if arguments.json else _print_check
    report = verify(
        arguments.artifact if is_manifest else artifact.path,
        hashes=not arguments.no_hashes,
        stock=not arguments.no_stock,
        threads=arguments.threads,
        on_check=show,
    )
    print(json.dumps({"report": report.to_dict()}) if arguments.json else _summary(report), flush=True)
    return 0 if report.passed else 1


def _print_check_json(check: Check) -> None:
    print(
        json.dumps({"check": check.name, "outcome": check.outcome, "reason": check.reason, **check.figures}), flush=True
    )


def _print_check(check: Check) -> None:
    figures = {
        name: check.figures[name]
        for name in ("relative_max_error", "mean_kld", "argmax_agreement")
        if name in check.figures
    }
    shown = "  ".join(f"{name} {value:.2g}" for name, value in figures.items())
    reason = f"  {check.reason}" if check.reason else ""
    print(f"{check.name:<16} {check.outcome:<8} {check.seconds:>7.2f} s  {shown}{reason}", flush=True)


def _summary(report: Report) -> str:
    counts = {
        outcome: sum(check.outcome == outcome for check in report.checks) for outcome in ("passed", "failed", "skipped")
    }
    numbers = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    verdict = "verified" if report.passed else "NOT verified"
    return (
        f"{report.artifact}: {verdict} on {report.engine}: {numbers} "
        f"({report.tolerance_kind}, tolerance {report.tolerance:g}, {report.threads} threads)"
    )


def _open(arguments: argparse.Namespace, emit: Sink) -> Opened:
    """Open the artifact, its tokenizer and its runner."""
    emit(LoadStart())
    artifact = find_artifact(arguments.artifact, arguments.runtime)
    tokenizer = load_tokenizer(artifact.tokenizer_file)
    runner = open_runner(artifact, arguments.threads)
    emit(LoadEnd())
    if tokenizer.vocab_size > artifact.manifest.vocab_size:
        raise TokenizerError(
            f"{artifact.tokenizer_file}: {tokenizer.vocab_size} tokens, "
            f"the model knows {artifact.manifest.vocab_size}; this tokenizer belongs to another model"
        )
    return Opened(artifact=artifact, runner=runner, tokenizer=tokenizer)


def _settings(arguments: argparse.Namespace, artifact: Artifact) -> Settings:
    sampling = Sampling(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
    )
    return Settings(
        eos_token_ids=artifact.manifest.eos_token_ids,
        sampling=sampling,
        max_tokens=arguments.max_tokens,
        stop_strings=tuple(arguments.stop),
    )


def _next_seed(settings: Settings) -> Settings:
    """With a seed given, another answer is the one of the next seed."""
    sampling = settings.sampling
    if sampling.seed is None:
        return settings
    return replace(settings, sampling=replace(sampling, seed=sampling.seed + 1))


def _template_options(arguments: argparse.Namespace) -> Mapping[str, Any]:
    return {} if arguments.thinking is None else {"enable_thinking": arguments.thinking == "on"}


@contextlib.contextmanager
def _event_sink(place: Path | None) -> Iterator[Sink]:
    if place is None:
        yield ignore
        return
    try:
        file: IO[str] = place.open("w", encoding="utf-8")
    except OSError as error:
        raise ProjectError(f"{place}: cannot write events: {error.strerror}") from error
    with file:
        yield json_lines(file)


def _unicode(text: str) -> str:
    """The text, refused where the terminal passed bytes that are not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text is not valid UTF-8 at character {error.start}; check the terminal's encoding"
        ) from error
    return text
