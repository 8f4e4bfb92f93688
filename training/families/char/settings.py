"""The settings of next-character prediction."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from training.data.encodings import EncodingName
from training.settings import ModelName, Optimiser, TrainingConfig


class CharConfig(TrainingConfig):
    """Next-character prediction on text."""

    task: Literal["char"] = "char"
    name: ModelName = "char"
    text: tuple[Path, ...] = Field(
        (), description="a text file, plain, .gz or .zip; repeat for several"
    )
    encoding: EncodingName | None = Field(
        None, description="how the text is written where it is not UTF-8: cp1252, cp1251, shift_jis"
    )
    stdlib: bool = Field(
        False, description="train on the text of Python's own standard library and manual"
    )
    labelled: Path | None = Field(
        None,
        description="labelled texts, as classify reads them: learn to write one for a label that "
        "is given first",
    )
    limit_characters: int | None = Field(
        None, ge=1, description="use at most so many characters (standard library: 2500000)"
    )
    min_count: int = Field(
        1,
        ge=1,
        description="characters seen fewer times become one symbol, <unk>; a model that has it "
        "takes any character a client sends",
    )
    symbols: int = Field(
        5000, ge=2, description="most symbols in the vocabulary; the rarest become <unk>"
    )
    normalise: Literal["none", "nfc"] = Field(
        "none",
        description="none takes letters and combining marks as they stand, each one a step; nfc "
        "composes them, and then every client has to do so too: a server cannot, as it takes "
        "one character at a time",
    )
    optimiser: Optimiser = Field(
        Optimiser.AUTO,
        description="adamw; or muon for the cells' matrices and adamw for the rest; auto takes "
        "muon where the hardware is fast at bf16",
    )
    embedding: int = Field(128, ge=1, le=8192, description="width of the character embedding")
    window: int = Field(64, ge=2, description="steps per truncated back-propagation window")
    restart: int = Field(
        4, ge=0, description="windows after which a stream begins anew; 0: it is carried on"
    )
    hidden: int = Field(512, ge=1, le=8192, description="units per layer")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="dropout between layers and before the head"
    )

    shape: ClassVar[tuple[str, ...]] = (*TrainingConfig.shape, "embedding")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [bool(self.text), self.stdlib, self.labelled is not None].count(True) != 1:
            raise ValueError("give one of text files, stdlib and labelled texts")
        if self.stdlib and self.encoding is not None:
            raise ValueError("encoding is for files: leave it out with stdlib")
        return self

    @model_validator(mode="after")
    def _labelled_texts_are_whole(self) -> Self:
        changed = self.limit_characters, self.min_count, self.normalise
        if self.labelled is not None and changed != (None, 1, "none"):
            raise ValueError(
                "labelled texts are taken as they are: leave out limit-characters, min-count and "
                "normalise"
            )
        return self

    @property
    def sources(self) -> tuple[Path, ...]:
        """The text files."""
        return self.text if self.labelled is None else (self.labelled,)

    def anchored(self) -> Self:
        """The same settings with absolute paths."""
        text = tuple(path.absolute() for path in self.text)
        labelled = None if self.labelled is None else self.labelled.absolute()
        return super().anchored().model_copy(update={"text": text, "labelled": labelled})
