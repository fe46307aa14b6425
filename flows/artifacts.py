"""What a flow found, as Prefect shows it: a table and a text, named after the flow."""

from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact


def publish(rows: Sequence[dict[str, Any]], text: str, *, key: str, of: str, description: str) -> None:
    """Show a table and a summary in the Prefect UI: `<key>-<of>` and `<key>-summary`.

    Args:
        rows: of the table, one dict a row.
        text: Markdown.
        key: of the flow's artifacts.
        of: what the rows are, such as slides.
        description: of the table.
    """
    create_table_artifact(table=list(rows), key=f"{key}-{of}", description=description)
    create_markdown_artifact(markdown=text, key=f"{key}-summary")
