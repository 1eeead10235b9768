"""The tables of the SQL ledgers, and how a database gets from one version of them to the next.

One list of migrations for SQLite and PostgreSQL; the version is in the database, which changes step by step
inside one transaction, one process at a time. A migration that has been released is never edited: a change is
a new migration at the end.

PostgreSQL also gets functions. A hold reads its path, decides and writes; as several statements it would take
as many round trips, with the tree locked in between. As one statement it could not say which account had no
room. A function is one round trip, and the tree is locked only for as long as the commit takes. The functions
are in PL/pgSQL: the server keeps their plans, and plans a function in SQL anew at each call.

The order of locks: a step that changes an account first locks the root of its tree, then reads; a hold's row
is locked after the root; a sweep or a batch takes roots in order of name. So two steps never wait in a
circle. The server finds the exceptions (many leases renewed at once against a sweep), and the step is run
again. Every hold changes the root's numbers anyway, so its lock delays no step that could have gone ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

TABLES = (
    # One row: the schema's version, the ledger's own number, and the latest time that was seen (`Mark`). The
    # time is written once a second: if every step of every tree wrote this row, all steps would wait for one
    # another.
    """CREATE TABLE elastic_ledger (
        version INTEGER NOT NULL,
        latest DOUBLE PRECISION NOT NULL,
        boot TEXT NOT NULL DEFAULT '',
        ticks DOUBLE PRECISION NOT NULL DEFAULT 0,
        ahead DOUBLE PRECISION,
        generation TEXT NOT NULL DEFAULT ''
    )""",
    "INSERT INTO elastic_ledger (version, latest) VALUES (0, 0)",
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
        closed BOOLEAN NOT NULL,
        closed_at DOUBLE PRECISION
    )""",
    "CREATE INDEX elastic_accounts_below ON elastic_accounts (parent) WHERE NOT closed",
    "CREATE INDEX elastic_accounts_children ON elastic_accounts (parent)",
    "CREATE INDEX elastic_accounts_closed ON elastic_accounts (closed_at) WHERE closed_at IS NOT NULL",
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
    "CREATE INDEX elastic_holds_of ON elastic_holds (account)",
    "CREATE INDEX elastic_holds_leases ON elastic_holds (until) WHERE state = 'live'",
    "CREATE INDEX elastic_holds_ended ON elastic_holds (ended) WHERE ended IS NOT NULL",
)

POSTGRES_FUNCTIONS = (
    # Room for new versions of a row beside the old: no index changes when an account's numbers do.
    "ALTER TABLE elastic_accounts SET (fillfactor = 50)",
    """CREATE FUNCTION elastic_clock() RETURNS double precision LANGUAGE sql VOLATILE AS
        'SELECT extract(epoch FROM clock_timestamp())::double precision'""",
    # The ledger's time (ledger_time.py): never backwards, nor faster than `elastic.asked` allows. A step that
    # finds the row locked leaves the writing to the step that has locked it.
    """CREATE FUNCTION elastic_now() RETURNS double precision
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
    # Before the steps of a transaction: checks the ledger's number, notes what the caller knows of the time.
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
    """CREATE FUNCTION elastic_window(period text, now double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT AS $$
        SELECT extract(epoch FROM date_trunc(period, to_timestamp(now) AT TIME ZONE 'UTC'))::double precision
    $$""",
    # The names from an account up to its root; locks the whole tree.
    """CREATE FUNCTION elastic_lock(account text) RETURNS text[]
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
    # Locks the trees of these accounts and of these holds, in order of name.
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
    # Adds to what is held and charged on a path whose tree is locked; starts new windows.
    """CREATE FUNCTION elastic_move(
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
    # Ends a live hold as `how` says ('settled', 'refunded', or 'lapsed': only if its lease has run out).
    # `changed`: this call has ended the hold.
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
    # A hold, or the first account (from the leaf up) and unit without room for the hold.
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
    # Ends up to `most` holds whose leases have run out, the earliest end first.
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
)


@dataclass(frozen=True, slots=True)
class Migration:
    """SQL for every database, and more for PostgreSQL."""

    statements: tuple[str, ...]
    postgres: tuple[str, ...] = ()


MIGRATIONS = {4: Migration(TABLES, POSTGRES_FUNCTIONS)}
"""Versions, ascending -> what makes this version of the one before it, the first of an empty database."""
