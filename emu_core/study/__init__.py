"""The human study (JUICE): two videos side by side, two questions, reasons; five raters a pair; and what comes of it.

Nothing is imported here, so that a part of it (the server, the report) costs only what it needs.
`store.Study` is one study's folder; `server.add_routes` puts its page into any aiohttp server; `report` reads the votes.
"""
