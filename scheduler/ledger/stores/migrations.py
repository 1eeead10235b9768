"""The tables of the SQL ledgers, and how a database gets from one version of them to the next.

One list of migrations for SQLite and PostgreSQL; the version is in the database, which changes step by step
inside one transaction, one process at a time. A migration that has been released is never edited: what
changes is a new one at the end.

PostgreSQL also gets functions. A hold reads its path, decides and writes; over several statements that is as
many round trips, with the tree locked in between, and one statement can't say which account lacked what. A
function is one round trip, and the lock lives for as long as the commit takes.

Who may wait for whom: a step that changes an account first locks the root of its tree, then reads; a hold's
row is locked after the root; a sweep takes roots in order of name. So two of them never wait in a circle;
what is left (many leases renewed at once against a sweep) the server finds, and the step is run again. Every
hold changes the root's books anyway: its lock keeps nobody out who could have gone ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

TABLES = (
    # One row: the schema's version, and the latest time that was seen (once a second, not at each step: a row
    # that every step of every tree wrote would make them all wait for one another).
    """CREATE TABLE elastic_ledger (version INTEGER NOT NULL, latest DOUBLE PRECISION NOT NULL)""",
    """CREATE TABLE elastic_accounts (
        id TEXT PRIMARY KEY,
        parent TEXT,
        root TEXT NOT NULL,
        tokens BIGINT,
        nano BIGINT,
        seconds DOUBLE PRECISION,
        period TEXT,
        ends DOUBLE PRECISION,
        starts DOUBLE PRECISION NOT NULL,
        spent_tokens BIGINT NOT NULL,
        spent_nano BIGINT NOT NULL,
        held_tokens BIGINT NOT NULL,
        held_nano BIGINT NOT NULL,
        own_tokens BIGINT NOT NULL,
        own_nano BIGINT NOT NULL,
        past_tokens BIGINT NOT NULL,
        past_nano BIGINT NOT NULL,
        closed BOOLEAN NOT NULL
    )""",
    """CREATE INDEX elastic_accounts_below ON elastic_accounts (parent) WHERE NOT closed""",
    """CREATE TABLE elastic_holds (
        key TEXT PRIMARY KEY,
        account TEXT NOT NULL,
        tokens BIGINT NOT NULL,
        nano BIGINT NOT NULL,
        until DOUBLE PRECISION NOT NULL,
        dispatched BOOLEAN NOT NULL,
        state TEXT NOT NULL,
        charged_tokens BIGINT NOT NULL,
        charged_nano BIGINT NOT NULL,
        ended DOUBLE PRECISION
    )""",
    """CREATE INDEX elastic_holds_of ON elastic_holds (account)""",
    """CREATE INDEX elastic_holds_leases ON elastic_holds (until) WHERE state = 'live'""",
    """CREATE INDEX elastic_holds_ended ON elastic_holds (ended) WHERE ended IS NOT NULL""",
)

POSTGRES_FUNCTIONS = (
    # Room for new versions of a row beside the old: no index changes when an account's numbers do.
    "ALTER TABLE elastic_accounts SET (fillfactor = 50)",
    """CREATE FUNCTION elastic_clock() RETURNS double precision LANGUAGE sql VOLATILE AS
        'SELECT extract(epoch FROM clock_timestamp())::double precision'""",
    # Never backwards. Whoever finds the mark locked leaves it to the one who has it.
    """CREATE FUNCTION elastic_now() RETURNS double precision LANGUAGE plpgsql VOLATILE AS $$
    DECLARE clock double precision := elastic_clock(); mark double precision;
    BEGIN
        SELECT latest INTO mark FROM elastic_ledger;
        IF clock >= mark + 1 THEN
            UPDATE elastic_ledger SET latest = greatest(latest, clock)
            WHERE ctid IN (SELECT ctid FROM elastic_ledger FOR UPDATE SKIP LOCKED);
        END IF;
        RETURN greatest(clock, mark);
    END $$""",
    """CREATE FUNCTION elastic_window(period text, now double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT AS $$
        SELECT extract(epoch FROM date_trunc(period, to_timestamp(now) AT TIME ZONE 'UTC'))::double precision
    $$""",
    # The names from an account up to its root, and the whole tree locked.
    """CREATE FUNCTION elastic_lock(account text) RETURNS text[] LANGUAGE plpgsql VOLATILE AS $$
    DECLARE path text[];
    BEGIN
        WITH RECURSIVE up(id, parent, depth) AS (
            SELECT a.id, a.parent, 1 FROM elastic_accounts a WHERE a.id = account
            UNION ALL
            SELECT a.id, a.parent, up.depth + 1 FROM up JOIN elastic_accounts a ON a.id = up.parent
        ) SELECT array_agg(up.id ORDER BY up.depth) INTO path FROM up;
        IF path IS NULL THEN RAISE EXCEPTION USING ERRCODE = 'EA001', MESSAGE = account; END IF;
        PERFORM 1 FROM elastic_accounts a WHERE a.id = path[array_length(path, 1)] FOR NO KEY UPDATE;
        RETURN path;
    END $$""",
    # What is held and charged on a path changes; windows that are over start anew. The tree is locked.
    """CREATE FUNCTION elastic_move(
        path text[], more_tokens bigint, more_nano bigint, charge_tokens bigint, charge_nano bigint,
        now double precision
    ) RETURNS void LANGUAGE sql VOLATILE AS $$
        UPDATE elastic_accounts SET
            held_tokens = held_tokens + more_tokens,
            held_nano = held_nano + more_nano,
            own_tokens = own_tokens + CASE WHEN id = path[1] THEN charge_tokens ELSE 0 END,
            own_nano = own_nano + CASE WHEN id = path[1] THEN charge_nano ELSE 0 END,
            past_tokens = past_tokens
                + CASE WHEN elastic_window(period, now) > starts THEN spent_tokens ELSE 0 END,
            past_nano = past_nano
                + CASE WHEN elastic_window(period, now) > starts THEN spent_nano ELSE 0 END,
            spent_tokens = charge_tokens
                + CASE WHEN elastic_window(period, now) > starts THEN 0 ELSE spent_tokens END,
            spent_nano = charge_nano
                + CASE WHEN elastic_window(period, now) > starts THEN 0 ELSE spent_nano END,
            starts = greatest(starts, elastic_window(period, now))
        WHERE id = ANY (path)
    $$""",
    # Ends a hold as `how` says ('settled', 'refunded', or 'lapsed': only if its lease has run out), unless it
    # has ended. `changed`: it was this call that ended it.
    """CREATE FUNCTION elastic_end(
        which text, how text, used_tokens bigint, used_nano bigint,
        OUT h elastic_holds, OUT now double precision, OUT changed boolean
    ) LANGUAGE plpgsql VOLATILE AS $$
    DECLARE path text[];
    BEGIN
        changed := false;
        SELECT * INTO h FROM elastic_holds WHERE key = which;
        IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = 'EA002', MESSAGE = which; END IF;
        IF h.state = 'live' THEN
            path := elastic_lock(h.account);
            SELECT * INTO h FROM elastic_holds WHERE key = which FOR UPDATE;
        END IF;
        now := elastic_now();
        IF h.state <> 'live' OR (how = 'lapsed' AND h.until > now) THEN RETURN; END IF;
        IF h.until <= now THEN
            how := CASE WHEN h.dispatched THEN 'expired' ELSE 'refunded' END;
            used_tokens := CASE WHEN h.dispatched THEN h.tokens ELSE 0 END;
            used_nano := CASE WHEN h.dispatched THEN h.nano ELSE 0 END;
        END IF;
        PERFORM elastic_move(path, -h.tokens, -h.nano, used_tokens, used_nano, now);
        UPDATE elastic_holds
        SET state = how, charged_tokens = used_tokens, charged_nano = used_nano, ended = now
        WHERE key = which RETURNING * INTO h;
        changed := true;
    END $$""",
    # A hold, or the first account (from the leaf up) and unit that lack room for it.
    """CREATE FUNCTION elastic_hold(
        new_key text, leaf text, more_tokens bigint, more_nano bigint, lease double precision,
        takes double precision, leaves boolean, instead_of text,
        OUT h elastic_holds, OUT now double precision,
        OUT lack_account text, OUT lack_unit text, OUT lack_needed double precision,
        OUT lack_available double precision
    ) LANGUAGE plpgsql VOLATILE AS $$
    DECLARE
        path text[]; old elastic_holds; a elastic_accounts; ended record; fresh boolean;
        back_tokens bigint := 0; back_nano bigint := 0; room_tokens bigint; room_nano bigint;
    BEGIN
        SELECT * INTO h FROM elastic_holds WHERE key = new_key;
        IF FOUND THEN
            IF (h.account, h.tokens, h.nano) <> (leaf, more_tokens, more_nano) THEN
                RAISE EXCEPTION USING ERRCODE = 'EA003', MESSAGE = new_key;
            END IF;
            IF leaves THEN
                UPDATE elastic_holds SET dispatched = true
                WHERE key = new_key AND NOT dispatched AND state = 'live' AND until > elastic_now();
            END IF;
            ended := elastic_end(new_key, 'lapsed', 0, 0);
            h := ended.h; now := ended.now;
            RETURN;
        END IF;
        path := elastic_lock(leaf);
        now := elastic_now();
        IF instead_of IS NOT NULL THEN
            SELECT * INTO old FROM elastic_holds WHERE key = instead_of FOR UPDATE;
            IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = 'EA002', MESSAGE = instead_of; END IF;
            IF old.account <> leaf OR old.dispatched THEN
                RAISE EXCEPTION USING ERRCODE = 'EA004', MESSAGE = instead_of;
            END IF;
            IF old.state = 'live' AND old.until <= now THEN
                ended := elastic_end(instead_of, 'lapsed', 0, 0);
            ELSIF old.state = 'live' THEN
                back_tokens := old.tokens; back_nano := old.nano;
            END IF;
        END IF;
        FOR a IN
            SELECT b.* FROM unnest(path) WITH ORDINALITY p(id, depth) JOIN elastic_accounts b ON b.id = p.id
            ORDER BY p.depth
        LOOP
            IF a.closed THEN RAISE EXCEPTION USING ERRCODE = 'EA005', MESSAGE = a.id; END IF;
            CONTINUE WHEN lack_unit IS NOT NULL;
            fresh := coalesce(elastic_window(a.period, now) > a.starts, false);
            room_tokens := a.tokens - a.held_tokens + back_tokens
                - CASE WHEN fresh THEN 0 ELSE a.spent_tokens END;
            room_nano := a.nano - a.held_nano + back_nano
                - CASE WHEN fresh THEN 0 ELSE a.spent_nano END;
            IF more_tokens > back_tokens AND more_tokens > room_tokens THEN
                lack_unit := 'tokens'; lack_needed := more_tokens; lack_available := room_tokens;
            ELSIF more_nano > back_nano AND more_nano > room_nano THEN
                lack_unit := 'nano'; lack_needed := more_nano; lack_available := room_nano;
            ELSIF takes > a.ends - now THEN
                lack_unit := 'seconds'; lack_needed := takes; lack_available := a.ends - now;
            END IF;
            lack_account := CASE WHEN lack_unit IS NOT NULL THEN a.id END;
        END LOOP;
        IF lack_unit IS NOT NULL THEN RETURN; END IF;
        IF old.state = 'live' AND old.until > now THEN
            UPDATE elastic_holds SET state = 'refunded', ended = now WHERE key = instead_of;
        END IF;
        PERFORM elastic_move(path, more_tokens - back_tokens, more_nano - back_nano, 0, 0, now);
        INSERT INTO elastic_holds
        VALUES (new_key, leaf, more_tokens, more_nano, now + lease, leaves, 'live', 0, 0, NULL)
        RETURNING * INTO h;
    END $$""",
    """CREATE FUNCTION elastic_dispatch(which text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        UPDATE elastic_holds SET dispatched = true
        WHERE key = which AND state = 'live' AND until > elastic_now();
        IF FOUND THEN RETURN true; END IF;
        PERFORM 1 FROM elastic_holds WHERE key = which;
        IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = 'EA002', MESSAGE = which; END IF;
        RETURN false;
    END $$""",
    # Up to `most` holds whose lease is over, those over longest first; and forgets up to as many old ones.
    """CREATE FUNCTION elastic_expire(most integer, retention double precision)
    RETURNS TABLE (h elastic_holds, now double precision) LANGUAGE plpgsql VOLATILE AS $$
    DECLARE which text; ended record;
    BEGIN
        now := elastic_now();
        FOR which IN
            SELECT lapsed.key FROM (
                SELECT b.key, b.account FROM elastic_holds b
                WHERE b.state = 'live' AND b.until <= elastic_expire.now ORDER BY b.until LIMIT most
            ) lapsed JOIN elastic_accounts a ON a.id = lapsed.account ORDER BY a.root
        LOOP
            ended := elastic_end(which, 'lapsed', 0, 0);
            IF ended.changed THEN
                h := ended.h;
                RETURN NEXT;
            END IF;
        END LOOP;
        DELETE FROM elastic_holds b WHERE b.key IN (
            SELECT c.key FROM elastic_holds c WHERE c.ended <= elastic_expire.now - retention
            ORDER BY c.ended LIMIT most FOR UPDATE SKIP LOCKED
        );
    END $$""",
)


@dataclass(frozen=True, slots=True)
class Migration:
    """SQL for every database, and more for PostgreSQL."""

    statements: tuple[str, ...]
    postgres: tuple[str, ...] = ()


FIRST = Migration((*TABLES, "INSERT INTO elastic_ledger VALUES (0, 0)"), POSTGRES_FUNCTIONS)

# Closed accounts are forgotten after a while, as ended holds are, by a step of its own.
FORGET_ACCOUNTS = Migration(
    (
        "ALTER TABLE elastic_accounts ADD COLUMN closed_at DOUBLE PRECISION",
        "UPDATE elastic_accounts SET closed_at = (SELECT latest FROM elastic_ledger) WHERE closed",
        """CREATE INDEX elastic_accounts_closed ON elastic_accounts (closed_at)
            WHERE closed_at IS NOT NULL""",
        "CREATE INDEX elastic_accounts_children ON elastic_accounts (parent)",
    ),
    (
        "DROP FUNCTION elastic_expire(integer, double precision)",
        # Up to `most` holds whose lease is over, those over longest first.
        """CREATE FUNCTION elastic_expire(most integer)
    RETURNS TABLE (h elastic_holds, now double precision) LANGUAGE plpgsql VOLATILE AS $$
    DECLARE which text; ended record;
    BEGIN
        now := elastic_now();
        FOR which IN
            SELECT lapsed.key FROM (
                SELECT b.key, b.account FROM elastic_holds b
                WHERE b.state = 'live' AND b.until <= elastic_expire.now ORDER BY b.until LIMIT most
            ) lapsed JOIN elastic_accounts a ON a.id = lapsed.account ORDER BY a.root
        LOOP
            ended := elastic_end(which, 'lapsed', 0, 0);
            IF ended.changed THEN
                h := ended.h;
                RETURN NEXT;
            END IF;
        END LOOP;
    END $$""",
    ),
)

# The server plans what a function in SQL does anew at each call, and keeps the plans of one in PL/pgSQL.
FASTER = Migration(
    (),
    (
        # The names from an account up to its root, and the whole tree locked.
        """CREATE OR REPLACE FUNCTION elastic_lock(account text) RETURNS text[]
    LANGUAGE plpgsql VOLATILE AS $$
    DECLARE path text[]; here text := account; above text;
    BEGIN
        LOOP
            SELECT a.parent INTO above FROM elastic_accounts a WHERE a.id = here;
            IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = 'EA001', MESSAGE = account; END IF;
            path := path || here;
            EXIT WHEN above IS NULL;
            here := above;
        END LOOP;
        PERFORM 1 FROM elastic_accounts a WHERE a.id = here FOR NO KEY UPDATE;
        RETURN path;
    END $$""",
        # The trees of these accounts and of these holds, locked in the order in which everybody does.
        """CREATE FUNCTION elastic_lock_trees(accounts text[], keys text[]) RETURNS void
    LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM 1 FROM elastic_accounts a WHERE a.id IN (
            SELECT b.root FROM elastic_accounts b WHERE b.id = ANY (accounts)
            UNION
            SELECT b.root FROM elastic_holds h JOIN elastic_accounts b ON b.id = h.account
            WHERE h.key = ANY (keys)
        ) ORDER BY a.id FOR NO KEY UPDATE;
    END $$""",
        # What is held and charged on a path changes; windows that are over start anew. The tree is locked.
        """CREATE OR REPLACE FUNCTION elastic_move(
        path text[], more_tokens bigint, more_nano bigint, charge_tokens bigint, charge_nano bigint,
        now double precision
    ) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        UPDATE elastic_accounts SET
            held_tokens = held_tokens + more_tokens,
            held_nano = held_nano + more_nano,
            own_tokens = own_tokens + CASE WHEN id = path[1] THEN charge_tokens ELSE 0 END,
            own_nano = own_nano + CASE WHEN id = path[1] THEN charge_nano ELSE 0 END,
            past_tokens = past_tokens
                + CASE WHEN elastic_window(period, now) > starts THEN spent_tokens ELSE 0 END,
            past_nano = past_nano
                + CASE WHEN elastic_window(period, now) > starts THEN spent_nano ELSE 0 END,
            spent_tokens = charge_tokens
                + CASE WHEN elastic_window(period, now) > starts THEN 0 ELSE spent_tokens END,
            spent_nano = charge_nano
                + CASE WHEN elastic_window(period, now) > starts THEN 0 ELSE spent_nano END,
            starts = greatest(starts, elastic_window(period, now))
        WHERE id = ANY (path);
    END $$""",
    ),
)

# The ledger's time is bounded by what the one who asks knows of how much time has passed (ledger_time.py),
# and a ledger has a number of its own (sql.py draws it).
BOUNDED_TIME = Migration(
    (
        "ALTER TABLE elastic_ledger ADD COLUMN boot TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE elastic_ledger ADD COLUMN ticks DOUBLE PRECISION NOT NULL DEFAULT 0",
        "ALTER TABLE elastic_ledger ADD COLUMN ahead DOUBLE PRECISION",
        "ALTER TABLE elastic_ledger ADD COLUMN generation TEXT NOT NULL DEFAULT ''",
    ),
    (
        # Never backwards, nor faster than allowed. Whoever finds the mark locked leaves it to who has it.
        """CREATE OR REPLACE FUNCTION elastic_now() RETURNS double precision
    LANGUAGE plpgsql VOLATILE AS $$
    DECLARE
        clock double precision := elastic_clock();
        mark double precision; known double precision; moment double precision; about text[];
    BEGIN
        SELECT l.latest INTO mark FROM elastic_ledger l;
        about := string_to_array(coalesce(current_setting('elastic.asked', true), ''), ' ');
        IF array_length(about, 1) = 5 THEN
            known := greatest(mark, about[1]::double precision);
            moment := greatest(known, least(clock, about[2]::double precision));
        ELSE
            known := mark;
            moment := greatest(mark, clock);
        END IF;
        IF known - clock > 300 THEN
            RAISE EXCEPTION USING ERRCODE = 'EA006', MESSAGE = known || ' ' || clock;
        END IF;
        IF moment >= mark + 1 THEN
            UPDATE elastic_ledger SET latest = greatest(latest, moment), boot = coalesce(about[3], ''),
                ticks = coalesce(about[4]::double precision, 0),
                ahead = nullif(about[5], '-')::double precision
            WHERE ctid IN (SELECT ctid FROM elastic_ledger FOR UPDATE SKIP LOCKED);
        END IF;
        RETURN moment;
    END $$""",
        # Before the steps of a transaction: what the one who asks knows, whether the ledger is the one
        # that it knows.
        """CREATE FUNCTION elastic_begin(
        asked text, known text, OUT now double precision, OUT clock double precision, OUT generation text
    ) LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        SELECT l.generation INTO generation FROM elastic_ledger l;
        IF known <> '' AND known <> generation THEN
            RAISE EXCEPTION USING ERRCODE = 'EA007', MESSAGE = generation;
        END IF;
        PERFORM set_config('elastic.asked', asked, false);
        clock := elastic_clock();
        now := elastic_now();
    END $$""",
    ),
)

MIGRATIONS = (FIRST, FORGET_ACCOUNTS, FASTER, BOUNDED_TIME)
"""What makes version 1 out of nothing, 2 out of 1, and so on."""
