"""How figures are written in sentences, tables and pages: everywhere alike."""


def signed_points(share: float, digits: int = 2) -> str:
    """Write a difference of shares in percentage points, with its sign.

    Example:
        >>> signed_points(0.0213), signed_points(0.0213, digits=1), signed_points(-1e-9)
        ('+2.13', '+2.1', '0.00')
    """
    text = f"{100 * share:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def p_cell(p_value: float) -> str:
    """Write a p-value, as below a heading that says ``p``, with no more digits than mean something.

    Example:
        >>> [p_cell(p) for p in (1.0, 0.52, 0.0312, 4e-7)]
        ['1', '0.52', '0.031', '< 0.001']
    """
    return "< 0.001" if p_value < 0.001 else f"{p_value:.2g}"


def p_text(p_value: float) -> str:
    """Write a p-value as in a sentence.

    Example:
        >>> p_text(0.0312), p_text(4e-7)
        ('p = 0.031', 'p < 0.001')
    """
    cell = p_cell(p_value)
    return f"p {cell}" if cell.startswith("<") else f"p = {cell}"
