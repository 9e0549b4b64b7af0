-- What the operator corrects by hand: an entry like any other, with the reason beside it.
alter table entries drop constraint entries_kind_check;
alter table entries add constraint entries_kind_check check (kind in ('usage', 'topup', 'adjustment'));

create table adjustments (
    id text primary key,
    customer text not null references customers,
    amount bigint not null check (amount <> 0), -- micro-rupees, positive when it is in the customer's favour
    reason text not null,
    entry bigint not null references entries,
    made_ms bigint not null
);
create index on adjustments (customer, made_ms);
create trigger append_only before update or delete on adjustments for each row execute function refuse_change();
create trigger never_empty before truncate on adjustments for each statement execute function refuse_change();

-- The signature under every segment that brought records. Its bytes can be put together again from these columns and the
-- records, so that it proves what the box signed when another segment contradicts it.
create table segments (
    device bytea not null,
    epoch bigint not null,
    first bigint not null,
    last bigint not null,
    lease bytea not null,
    signature bytea not null,
    primary key (device, epoch, last),
    foreign key (device, epoch) references epochs
);
create trigger append_only before update or delete on segments for each row execute function refuse_change();
create trigger never_empty before truncate on segments for each statement execute function refuse_change();

-- `payload` and `signature` contradict `before_payload` and `before_signature` at record `seq`.
alter table forks add column seq bigint;
alter table forks add column before_payload bytea;
alter table forks add column before_signature bytea;

-- Why the last segment of the epoch was refused, until one is taken.
alter table epochs add column refused text;
alter table epochs add column refused_ms bigint;
