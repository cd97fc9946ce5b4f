"""Which spaces of a value are padding, by its VR (PS3.5 §6.2).

The index, the conditions of rules, changes, crosswalks, de-identification and searches all ask here, so that a value
is the same to each of them however its sender padded it.
"""

PADDING = "\0 "
# A leading space means nothing in these, or may not be there at all (DA, DT, TM, UI): either way it is no value.
_BOTH_ENDS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI"})
_END = frozenset({"LT", "ST", "UC", "UR", "UT"})


def without_padding(text: str, vr: str) -> str:
    """Return one value of an element without its padding; of a person name, each component group."""
    if vr in _BOTH_ENDS:
        if vr == "PN" and "=" in text:
            return "=".join([group.strip(PADDING) for group in text.split("=")])
        return text.strip(PADDING)
    return text.rstrip(PADDING) if vr in _END else text


def bare_name(text: str) -> str:
    """Return a person name without the delimiters of components and groups that are not there (PS3.5 §6.2.1.1)."""
    return "=".join([group.strip(PADDING).rstrip("^" + PADDING) for group in text.split("=")]).rstrip("=")
