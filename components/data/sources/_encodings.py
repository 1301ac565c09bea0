"""The type of a key that names an encoding."""

import codecs
from typing import Annotated

from pydantic import AfterValidator


def _known(name: str | None) -> str | None:
    if name is not None:
        try:
            codecs.getincrementaldecoder(name)
            b"0000".decode(name)  # some codecs are no encodings of text
        except (LookupError, AttributeError) as error:
            raise ValueError(f"there is no such encoding of text: {error}") from error
    return name


Encoding = Annotated[str | None, AfterValidator(_known)]
