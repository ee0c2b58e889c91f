"""`charprobe-lite protocols`: what each protocol fixes, and where that is from."""

from dataclasses import asdict

import click

from charprobe_lite.eval.cli.options import json_option
from charprobe_lite.eval.cli.progress import print_result
from charprobe_lite.models.catalogue import PROTOCOLS


@click.command()
@click.argument("name", required=False, type=click.Choice(PROTOCOLS), metavar="[NAME]")
@json_option
def protocols(name: str | None, as_json: bool) -> None:
    """List the protocols, or the facts of one and their sources.

    \b
    charprobe-lite protocols
    charprobe-lite protocols depth
    """
    from charprobe_lite.eval.protocols import load_protocol
    from charprobe_lite.eval.terminal_table import plain_table

    chosen = [load_protocol(each) for each in ([name] if name else PROTOCOLS)]
    document = {
        "protocols": [
            {
                "name": protocol.name,
                "summary": protocol.summary,
                "conditions": list(protocol.conditions),
                "defaults": dict(protocol.defaults),
                "facts": [asdict(fact) for fact in protocol.facts],
            }
            for protocol in chosen
        ]
    }
    if name:
        [protocol] = chosen
        table = plain_table(
            f"{name}: {protocol.summary}", ["what", "how", "source"], [], wrap=("how", "source")
        )
        for fact in protocol.facts:
            table.add_row(fact.topic, fact.text, fact.source)
    else:
        table = plain_table(None, ["protocol", "what it is"], [], wrap=("what it is",))
        for protocol in chosen:
            table.add_row(protocol.name, protocol.summary)
    print_result(as_json, document, [table])
