-- Money is in integer micro-rupees (bigint), time in milliseconds since 1970 (bigint), hashes and keys are raw bytes.

create table identity (
    only_row boolean primary key default true check (only_row),
    public_key bytea not null check (octet_length(public_key) = 32)
);

create table customers (
    id text primary key,
    name text not null,
    created_ms bigint not null
);

-- Double entry. A posting's amount is a debit when positive and a credit when negative; every entry sums to zero.
create table accounts (
    id text primary key,
    customer text unique references customers,
    -- Sum of the postings, kept only for a customer's wallet: the house's accounts would be a queue for every writer.
    balance bigint not null default 0
);

create table entries (
    id bigint generated always as identity primary key,
    kind text not null check (kind in ('usage', 'topup')),
    reference text not null unique,
    posted_ms bigint not null
);

create table postings (
    entry bigint not null references entries,
    account text not null references accounts,
    amount bigint not null check (amount <> 0),
    primary key (entry, account)
);
create index on postings (account, entry);

create function keep_balance() returns trigger language plpgsql as $$
begin
    update accounts set balance = balance + new.amount where id = new.account and customer is not null;
    return null;
end $$;
create trigger keep_balance after insert on postings for each row execute function keep_balance();

create function require_balance() returns trigger language plpgsql as $$
declare
    checked bigint := case tg_table_name when 'entries' then (to_jsonb(new) ->> 'id')::bigint else (to_jsonb(new) ->> 'entry')::bigint end;
    total numeric;
    lines bigint;
begin
    select coalesce(sum(amount), 0), count(*) into total, lines from postings where entry = checked;
    if total <> 0 or lines < 2 then
        raise exception 'entry % is not balanced: % postings sum to %', checked, lines, total;
    end if;
    return null;
end $$;
create constraint trigger require_balance after insert on entries
    deferrable initially deferred for each row execute function require_balance();
create constraint trigger require_balance after insert on postings
    deferrable initially deferred for each row execute function require_balance();

create table devices (
    id bytea primary key check (octet_length(id) = 16),
    customer text not null references customers,
    created_ms bigint not null
);
create index on devices (customer);

-- A device begins a new epoch with a new key at each enrolment; `acked` and `link` are the head of its records here.
create table epochs (
    device bytea not null references devices,
    epoch bigint not null,
    public_key bytea not null check (octet_length(public_key) = 32),
    acked bigint not null default 0,
    link bytea not null check (octet_length(link) = 32),
    used_ms bigint not null, -- billing time of the last record: it never goes back
    seen_ms bigint not null,
    enrolled_ms bigint not null,
    frozen_ms bigint,
    primary key (device, epoch)
);

create table forks (
    device bytea not null,
    epoch bigint not null,
    payload bytea not null,
    signature bytea not null,
    found_ms bigint not null,
    primary key (device, epoch),
    foreign key (device, epoch) references epochs
);

-- One-time enrolment codes: the first part finds the row, the second is kept only as a hash.
create table codes (
    selector text primary key,
    hash bytea not null,
    customer text not null references customers,
    expires_ms bigint not null,
    tries integer not null default 0,
    device bytea,
    epoch bigint,
    foreign key (device, epoch) references epochs
);

create table price_books (
    hash bytea primary key,
    effective_ms bigint not null,
    stored_ms bigint not null,
    book bytea not null
);

create table records (
    device bytea not null,
    epoch bigint not null,
    seq bigint not null,
    link bytea not null,
    canonical bytea not null,
    customer text not null references customers,
    meter smallint not null,
    outcome smallint not null,
    used_ms bigint not null,
    posted_ms bigint not null,
    price_book bytea not null references price_books,
    units smallint[] not null,
    quantities bigint[] not null,
    rates bigint[] not null, -- 0 where the unit is free
    amounts bigint[] not null,
    entry bigint references entries, -- null when the records posted together cost nothing
    primary key (device, epoch, seq),
    foreign key (device, epoch) references epochs
);
create index on records (customer, posted_ms);

create table leases (
    device bytea not null,
    epoch bigint not null,
    lease bytea not null check (octet_length(lease) = 16),
    total bigint not null, -- granted + allowance
    unspent bigint not null, -- of this lease, below 0 when overspent
    held bigint not null check (held >= 0), -- the most the box may still spend under this lease or an older one
    expires_ms bigint not null,
    primary key (device, epoch),
    foreign key (device, epoch) references epochs
);

create table receipts (
    device bytea not null,
    epoch bigint not null,
    acked bigint not null,
    payload bytea not null,
    signature bytea not null,
    node_ms bigint not null,
    primary key (device, epoch),
    foreign key (device, epoch) references epochs
);

create table topups (
    reference text primary key,
    customer text not null references customers,
    device bytea references devices,
    request_id text,
    amount_paise bigint not null check (amount_paise >= 0), -- 0: the payer types it
    standing boolean not null,
    created_ms bigint not null,
    expires_ms bigint,
    paid_ms bigint,
    unique (device, request_id)
);
create unique index on topups (customer) where standing and paid_ms is null;
create index on topups (customer, created_ms);

create table payments (
    utr text primary key,
    reference text not null unique references topups,
    amount_paise bigint not null check (amount_paise > 0),
    entry bigint not null references entries,
    confirmed_ms bigint not null
);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: correct it by a new entry', tg_table_name;
end $$;
create trigger append_only before update or delete on entries for each row execute function refuse_change();
create trigger append_only before update or delete on postings for each row execute function refuse_change();
create trigger append_only before update or delete on records for each row execute function refuse_change();
create trigger append_only before update or delete on payments for each row execute function refuse_change();
create trigger append_only before update or delete on price_books for each row execute function refuse_change();
create trigger never_empty before truncate on entries for each statement execute function refuse_change();
create trigger never_empty before truncate on postings for each statement execute function refuse_change();
create trigger never_empty before truncate on records for each statement execute function refuse_change();
create trigger never_empty before truncate on payments for each statement execute function refuse_change();
create trigger never_empty before truncate on price_books for each statement execute function refuse_change();
