"""Run the migrations on the connection that `ledger.operate.deploy.migrate` opened and locked, and will commit.

`alembic` on the command line, for writing new migrations, opens one by the same settings.
"""

from alembic import context

from ledger import settings
from ledger.store import engine_for
from ledger.store.tables import metadata


def run(connection: object) -> None:
    context.configure(connection=connection, target_metadata=metadata)  # type: ignore[arg-type]
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with engine_for(settings.load().owner_url).execution_options(writing=True).begin() as opened:
        run(opened)
