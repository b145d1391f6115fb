/*
 * Owners, views, handovers, followers and epochs of topics that nodes share: the protocol of docs/explanation/cluster.md, outside its code.
 *
 * `scripts/cluster-model` explores every order of events within the bounds below. A node has two parts, as in src/cluster: the
 * cluster (members, views, links), and the table of its topics, which takes the cluster's events in their order and, with LAG, late.
 *
 * Abstracted: packets (here a link delivers in order, or is reset; the simulation loses packets), publications of other nodes than the owner,
 * durable topics, member lists, local epochs, and handovers in several parts. Every node has one subscriber of every topic.
 * A node that was killed does not return: a restarted node is another node.
 *
 * Bounds (-D): START nodes (1 to 3) at the start, PUBS publications of each topic, JOINS (the nodes behind them join), LEAVES, KILLS, CUTS (a node is cut off from all others,
 * and returns). With WAITS a topic that has to be handed over waits for as long as it may: for a link with no room, or for its stream. With
 * JOINED (of three nodes) node 0 has joined node 1, which still has all topics, and node 2 is about to. QLEN messages of a link and EVENTS of a table are on their way at most; the model fails if that is not enough.
 *
 * Mistakes (-D) that a check must find: KEEP_OWNING, SETTLE_EARLY, SETTLE_STALE, GAP_UNTOLD, MERGE_SILENT, BEGIN_CLOSED.
 */
#ifndef PUBS
#define PUBS 1
#endif
#ifndef JOINS
#define JOINS 0
#endif
#ifndef LEAVES
#define LEAVES 0
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef START
#define START 3
#endif
#define ALL ((1 << START) - 1)
#ifndef QLEN
#define QLEN 16
#endif
#ifndef EVENTS
#define EVENTS 12
#endif
#ifndef EPOCHS
#define EPOCHS 12
#endif

#define N 3
#define NONE 3
#define BIT(x) (1 << (x))
#define HAS(set, x) (((set) >> (x)) & 1)
#define IJ(i, j) ((i) * N + (j))
#define IT(i, t) ((i) * 2 + (t))
#define IJT(i, j, t) (IJ(i, j) * 2 + (t))

/* The owner of a topic in a view: the first of an order of nodes that differs by topic, as a rendezvous hash gives it. */
#define OWNER_OF(view, t) \
    ((t) == 0 -> (HAS(view, 2) -> 2 : (HAS(view, 0) -> 0 : (HAS(view, 1) -> 1 : NONE))) \
              :  (HAS(view, 1) -> 1 : (HAS(view, 2) -> 2 : (HAS(view, 0) -> 0 : NONE))))
/* Topic 0 keeps no history, topic 1 all of it. */
#define KEPT(t, offset) ((t) == 0 -> (offset) : 0)

/* Phases of a node. */
#define DOWN 0
#define JOINING 1
#define ACTIVE 2
#define LEAVING 3
/* Roles of a table for a topic. */
#define IDLE 0
#define ASKED 1
#define LIVE 2
#define OWNS 3
/* Messages. */
#define VIEW 1
#define SETTLED 2
#define FOLLOW 3
#define FOLLOWING 4
#define DELIVER 5
#define NOT_OWNER 6
#define HANDOVER 7
#define RELEASED 8
#define TAKEN 9
#define DIVERGED 10
/* Events of a table, beside messages. */
#define E_VIEW 11
#define E_OPEN 12
#define E_SETTLE 13
#define E_AGREED 14
#define E_RESET 15

/* kind, topic, and three numbers. A link's staged messages; a table's events have the peer in front. */
chan link[9] = [QLEN] of { byte, byte, byte, byte, byte };
chan events[3] = [EVENTS] of { byte, byte, byte, byte, byte, byte };

/* The cluster of each node. */
byte phase[N], sees[N], owners_seen[N], view[N], number[N], has_settled[N];
bool is_open[N], has_taken_leave[N];
byte session[9], theirs[9], announced_view[9], announced[9], peer_view[9];
bool has_begun[9];
/* Requests to settle that the table has not fulfilled: the other's number, its view, and this node's number. */
byte settle[9], settle_view[9], settle_own[9];
byte cut;

/* The table of each node. */
byte table_view[N], moving[N], visiting[N], diverged[N];
bool table_open[N], has_reports[N];
byte role[6], owner[6], epoch[6], offset[6], followers[6], hint[6];
bool is_retried[6];
byte handed[18], owed[18];

/* What is true, which no node knows. */
byte epochs, accepted[EPOCHS];
byte told_epoch[6], told_offset[6];
/* A message of an epoch that the subscriber was not told of. */
bool has_missed[6];
/* Since a topic was begun while two nodes did not see each other, two of them may own it. */
bool is_split[2];
bool was_killed, had_fault;
byte publications[2], joins, leaves, kills, cuts;

hidden byte k_push, k_view, k_ann, k_upd, k_fol, k_srv, k_ans, k_ao, k_ho, k_rep, k_rst, k_drv, k_set, k_beg, k_app, k_hv, k_hs, k_ho2, k_own, k_is, k_mrg, k_clr;
hidden byte own, found, kind, top, one, two, three, from, head_, start_, old, lost;


#define IS_UP(i) (phase[i] != DOWN)
#define REACHES(i, j) (!HAS(cut, i) && !HAS(cut, j))
#define MUTUAL(i, j) (theirs[IJ(i, j)] == session[IJ(j, i)] && theirs[IJ(j, i)] == session[IJ(i, j)])
/* A node asks again after a delay; by then, what it was sent before has arrived. */
#define MAY_RETRY(i) (empty(link[IJ(0, i)]) && empty(link[IJ(1, i)]) && empty(link[IJ(2, i)]))

inline push(i, j, what, t, a, b, c) {
    if
    :: HAS(sees[i], j) -> assert(nfull(link[IJ(i, j)])); link[IJ(i, j)]!what, t, a, b, c
    :: else
    fi
}

inline emit(i, what, peer, t, a, b, c) {
    assert(nfull(events[i]));
    events[i]!what, peer, t, a, b, c
}

inline flush(from_, to_) {
    do
    :: len(link[IJ(from_, to_)]) > 0 -> link[IJ(from_, to_)]?_, _, _, _, _
    :: else -> break
    od
}

/* ---- the cluster: members, views, links ---- */

inline answer_view(i, j) {
    if
    :: announced[IJ(i, j)] != 0 && announced_view[IJ(i, j)] == view[i] ->
        emit(i, E_SETTLE, j, 0, announced[IJ(i, j)], view[i], number[i]);
        announced[IJ(i, j)] = 0
    :: else
    fi
}

inline announce(i) {
    number[i]++;
    has_settled[i] = 0;
    for (k_ann : 0 .. N - 1) {
        if
        :: k_ann != i -> push(i, k_ann, VIEW, 0, view[i], number[i], 0)
        :: else
        fi
    }
    k_ann = 0
}

#define MAY_OPEN(i) (phase[i] == ACTIVE && (sees[i] & ~has_settled[i]) == 0)

inline set_open(i, value) {
    if
    :: is_open[i] != (value) ->
        is_open[i] = (value);
        emit(i, E_OPEN, 0, 0, is_open[i], 0, 0)
    :: else
    fi
}

inline update(i) {
    own = owners_seen[i] | (phase[i] == ACTIVE -> BIT(i) : 0);
    if
    :: own != view[i] ->
        view[i] = own;
        announce(i);
        if
        :: !MAY_OPEN(i) -> set_open(i, false)
        :: else
        fi;
        emit(i, E_VIEW, 0, 0, view[i], 0, 0);
        for (k_upd : 0 .. N - 1) {
            if
            :: k_upd != i && HAS(sees[i], k_upd) -> answer_view(i, k_upd)
            :: else
            fi
        }
        k_upd = 0
    :: else
    fi;
    own = 0;
    set_open(i, MAY_OPEN(i))
}

/* What a link that begins forgets. */
inline forget_peer(i, j) {
    has_settled[i] = has_settled[i] & ~BIT(j);
    announced[IJ(i, j)] = 0;
    announced_view[IJ(i, j)] = 0;
    peer_view[IJ(i, j)] = 0;
    settle[IJ(i, j)] = 0;
    settle_view[IJ(i, j)] = 0;
    settle_own[IJ(i, j)] = 0;
    has_begun[IJ(i, j)] = false;
    flush(i, j)
}

inline hear(i, j) {
    if
    :: !HAS(sees[i], j) ->
        sees[i] = sees[i] | BIT(j);
        session[IJ(i, j)]++;
        theirs[IJ(i, j)] = 0;
        forget_peer(i, j);
        push(i, j, VIEW, 0, view[i], number[i], 0)
    :: else
    fi;
    if
    :: phase[j] == ACTIVE -> owners_seen[i] = owners_seen[i] | BIT(j)
    :: else -> owners_seen[i] = owners_seen[i] & ~BIT(j)
    fi;
    update(i)
}

inline drop_peer(i, j) {
    sees[i] = sees[i] & ~BIT(j);
    owners_seen[i] = owners_seen[i] & ~BIT(j);
    theirs[IJ(i, j)] = 0;
    forget_peer(i, j);
    if
    :: !IS_UP(j) -> flush(j, i)
    :: else
    fi;
    emit(i, E_RESET, j, 0, 0, 0, 0);
    update(i)
}

/* A packet of the other side's present session arrives. */
inline learn_session(i, j) {
    if
    :: theirs[IJ(i, j)] != 0 && has_begun[IJ(i, j)] ->
        session[IJ(i, j)]++;
        forget_peer(i, j);
        push(i, j, VIEW, 0, view[i], number[i], 0);
        emit(i, E_RESET, j, 0, 0, 0, 0);
        set_open(i, MAY_OPEN(i))
    :: else
    fi;
    theirs[IJ(i, j)] = session[IJ(j, i)]
}

/* The node i takes the next message of j. */
inline take(i, j) {
    link[IJ(j, i)]?kind, top, one, two, three;
    has_begun[IJ(i, j)] = true;
    has_begun[IJ(j, i)] = true;
    if
    :: kind == VIEW ->
        peer_view[IJ(i, j)] = one;
        announced_view[IJ(i, j)] = one;
        announced[IJ(i, j)] = two;
        answer_view(i, j)
    :: kind == SETTLED ->
        if
        :: one == number[i] -> has_settled[i] = has_settled[i] | BIT(j); set_open(i, MAY_OPEN(i))
        :: else
        fi
    :: else ->
        emit(i, kind, j, top, one, two, three);
        if
        :: (kind == HANDOVER || kind == DIVERGED) && peer_view[IJ(i, j)] == view[i] ->
            emit(i, E_AGREED, j, top, 0, 0, 0)
        :: else
        fi
    fi;
    kind = 0; top = 0; one = 0; two = 0; three = 0
}

/* ---- the store: a topic's position, and what its subscriber is told ---- */

inline tell_message(i, t) {
    if
    :: offset[IT(i, t)] > told_offset[IT(i, t)] ->
        /* a subscriber gets each message once and in order, or a notice of a gap or of a new epoch */
        assert(told_epoch[IT(i, t)] == epoch[IT(i, t)] && told_offset[IT(i, t)] + 1 == offset[IT(i, t)]);
        told_offset[IT(i, t)] = offset[IT(i, t)]
    :: else
    fi
}

inline skip_to(i, t, to) {
    offset[IT(i, t)] = to;
#ifndef GAP_UNTOLD
    if
    :: told_offset[IT(i, t)] < offset[IT(i, t)] -> told_offset[IT(i, t)] = offset[IT(i, t)]
    :: else
    fi
#endif
}

inline restart(i, t, its_epoch, start, head) {
    /* planned changes lose nothing and keep every epoch */
    assert(had_fault || told_epoch[IT(i, t)] == 0);
    epoch[IT(i, t)] = its_epoch;
    offset[IT(i, t)] = start;
    told_epoch[IT(i, t)] = its_epoch;
    told_offset[IT(i, t)] = head;
    has_missed[IT(i, t)] = false
}

inline fresh_epoch(i, t) {
    epochs++;
    assert(epochs < EPOCHS);
    restart(i, t, epochs, 0, 0)
}

inline append(i, t) {
    offset[IT(i, t)]++;
    /* no position of a topic has two messages */
    assert(accepted[epoch[IT(i, t)]] + 1 == offset[IT(i, t)]);
    accepted[epoch[IT(i, t)]] = offset[IT(i, t)];
    tell_message(i, t);
    for (k_app : 0 .. N - 1) {
        if
        :: IS_UP(k_app) && told_epoch[IT(k_app, t)] != 0 && told_epoch[IT(k_app, t)] != epoch[IT(i, t)] ->
            has_missed[IT(k_app, t)] = true
        :: else
        fi;
        if
        :: HAS(followers[IT(i, t)], k_app) -> push(i, k_app, DELIVER, t, epoch[IT(i, t)], offset[IT(i, t)], 0)
        :: else
        fi
    }
    k_app = 0
}

/* ---- the table: roles of this node for topics ---- */

inline serve(i, t, follower, start) {
    followers[IT(i, t)] = followers[IT(i, t)] | BIT(follower);
    push(i, follower, FOLLOWING, t, epoch[IT(i, t)], start, offset[IT(i, t)]);
    k_srv = (start) + 1;
    do
    :: k_srv <= offset[IT(i, t)] -> push(i, follower, DELIVER, t, epoch[IT(i, t)], k_srv, 0); k_srv++
    :: else -> break
    od;
    k_srv = 0
}

inline merge(i, t) {
#ifndef MERGE_SILENT
    fresh_epoch(i, t);
    old = followers[IT(i, t)];
    for (k_mrg : 0 .. N - 1) {
        if
        :: HAS(old, k_mrg) -> serve(i, t, k_mrg, 0)
        :: else
        fi
    }
    k_mrg = 0;
    old = 0
#else
    skip
#endif
}

inline note_diverged(i, t) {
    if
    :: role[IT(i, t)] == OWNS -> merge(i, t)
    :: else -> diverged[i] = diverged[i] | BIT(t)
    fi
}

/* Two nodes that see each other, with all that they have sent. */
#define SEE_EACH_OTHER(i, j) (HAS(sees[i], j) && HAS(sees[j], i) && MUTUAL(i, j))

inline begin(i, t) {
    for (k_beg : 0 .. N - 1) {
        if
        :: k_beg != i && IS_UP(k_beg) && !SEE_EACH_OTHER(i, k_beg) -> is_split[t] = true
        :: else
        fi
    }
    k_beg = 0;
    fresh_epoch(i, t);
    role[IT(i, t)] = OWNS;
    followers[IT(i, t)] = 0;
    diverged[i] = diverged[i] & ~BIT(t)
}

#ifdef BEGIN_CLOSED
#define MAY_BEGIN(i) true
#else
#define MAY_BEGIN(i) table_open[i]
#endif

inline drive(i, t) {
    if
    :: role[IT(i, t)] == IDLE && !is_retried[IT(i, t)] ->
        own = hint[IT(i, t)];
        hint[IT(i, t)] = NONE;
        if
        :: own != NONE && HAS(table_view[i], own)
        :: else -> own = OWNER_OF(table_view[i], t)
        fi;
        if
        :: own == i && MAY_BEGIN(i) -> begin(i, t)
        :: own != NONE && own != i && !HAS(sees[i], own) -> is_retried[IT(i, t)] = true
        :: own != NONE && own != i && HAS(sees[i], own) ->
            role[IT(i, t)] = ASKED;
            owner[IT(i, t)] = own;
            push(i, own, FOLLOW, t, epoch[IT(i, t)], offset[IT(i, t)], 0)
        :: else
        fi;
        own = 0
    :: else
    fi
}

#define GOES_ON(i, t) (role[IT(i, t)] == OWNS && OWNER_OF(table_view[i], t) != NONE && OWNER_OF(table_view[i], t) != i)

/* Answers the nodes that have handed the topic over. */
inline answer(i, t) {
    for (k_ans : 0 .. N - 1) {
        do
        :: owed[IJT(i, k_ans, t)] > 0 -> owed[IJT(i, k_ans, t)]--; push(i, k_ans, TAKEN, t, 0, 0, 0)
        :: else -> break
        od
    }
    k_ans = 0
}

#define IS_HANDED(i, t) (handed[IJT(i, 0, t)] + handed[IJT(i, 1, t)] + handed[IJT(i, 2, t)] > 0)

inline hand_over_one(i, t, to) {
    if
    :: role[IT(i, t)] == OWNS ->
        push(i, to, HANDOVER, t, epoch[IT(i, t)], offset[IT(i, t)], 0);
        handed[IJT(i, to, t)]++;
        for (k_ho2 : 0 .. N - 1) {
            if
            :: HAS(followers[IT(i, t)], k_ho2) && k_ho2 != to -> push(i, k_ho2, RELEASED, t, to, 0, 0)
            :: else
            fi
        }
        k_ho2 = 0;
#ifndef KEEP_OWNING
        followers[IT(i, t)] = 0;
        role[IT(i, t)] = ASKED;
        owner[IT(i, t)] = to;
        push(i, to, FOLLOW, t, epoch[IT(i, t)], offset[IT(i, t)], 0)
#endif
    :: else
    fi
}

inline hand_over_moving(i, t) {
    moving[i] = moving[i] & ~BIT(t);
    found = OWNER_OF(table_view[i], t);
    if
    :: found != NONE && found != i -> hand_over_one(i, t, found)
    :: else
    fi;
    found = 0
}

inline hand_over(i) {
#ifndef WAITS
    for (k_ho : 0 .. 1) {
        if
        :: HAS(moving[i], k_ho) -> hand_over_moving(i, k_ho)
        :: else
        fi
    }
    k_ho = 0;
#endif
    if
    :: has_reports[i] ->
        has_reports[i] = false;
        for (k_rep : 0 .. 1) {
            found = OWNER_OF(table_view[i], k_rep);
            if
            :: HAS(diverged[i], k_rep) && found != NONE && found != i ->
                diverged[i] = diverged[i] & ~BIT(k_rep);
                handed[IJT(i, found, k_rep)]++;
                push(i, found, DIVERGED, k_rep, 0, 0, 0)
            :: else
            fi;
            found = 0
        }
        k_rep = 0
    :: else
    fi
}

inline handle_view(i, v) {
    table_view[i] = v;
    moving[i] = 0;
    visiting[i] = 0;
    has_reports[i] = diverged[i] != 0;
    for (k_hv : 0 .. 1) {
        if
        :: role[IT(i, k_hv)] == OWNS && OWNER_OF(table_view[i], k_hv) != i -> moving[i] = moving[i] | BIT(k_hv)
        :: else
        fi;
        if
        :: role[IT(i, k_hv)] == OWNS && !GOES_ON(i, k_hv) -> answer(i, k_hv)
        :: role[IT(i, k_hv)] != OWNS && !IS_HANDED(i, k_hv) -> answer(i, k_hv)
        :: else
        fi
    }
    for (k_hv : 0 .. 1) {
        drive(i, k_hv)
    }
    k_hv = 0
}

inline handle_reset(i, j) {
    lost = 0;
    for (k_rst : 0 .. 1) {
        if
        :: handed[IJT(i, j, k_rst)] > 0 -> lost = lost | BIT(k_rst); handed[IJT(i, j, k_rst)] = 0
        :: else
        fi;
        hint[IT(i, k_rst)] = (hint[IT(i, k_rst)] == j -> NONE : hint[IT(i, k_rst)]);
        if
        :: role[IT(i, k_rst)] == OWNS -> followers[IT(i, k_rst)] = followers[IT(i, k_rst)] & ~BIT(j)
        :: (role[IT(i, k_rst)] == ASKED || role[IT(i, k_rst)] == LIVE) && owner[IT(i, k_rst)] == j ->
            role[IT(i, k_rst)] = IDLE;
            owner[IT(i, k_rst)] = 0
        :: else
        fi
    }
    for (k_rst : 0 .. 1) {
        if
        :: HAS(lost, k_rst) ->
            note_diverged(i, k_rst);
            has_reports[i] = diverged[i] != 0;
            answer(i, k_rst)
        :: else
        fi;
        owed[IJT(i, j, k_rst)] = 0
    }
    for (k_rst : 0 .. 1) {
        drive(i, k_rst)
    }
    lost = 0;
    k_rst = 0
}

inline own_received(i, t) {
    role[IT(i, t)] = OWNS;
    owner[IT(i, t)] = 0;
    followers[IT(i, t)] = 0;
    hint[IT(i, t)] = NONE;
    is_retried[IT(i, t)] = false;
    if
    :: OWNER_OF(table_view[i], t) != i -> visiting[i] = visiting[i] | BIT(t)
    :: else
    fi;
    if
    :: HAS(diverged[i], t) -> diverged[i] = diverged[i] & ~BIT(t); merge(i, t)
    :: else
    fi
}

inline receive(i, j, t, e, o) {
    if
    :: role[IT(i, t)] == OWNS -> merge(i, t)
    :: else ->
        if
        :: epoch[IT(i, t)] != e || offset[IT(i, t)] > o ->
            start_ = KEPT(t, o);
            restart(i, t, e, start_, o);
            start_ = 0;
            offset[IT(i, t)] = o
        :: epoch[IT(i, t)] == e && offset[IT(i, t)] < o && t == 0 -> skip_to(i, t, o)
        :: else ->
            do
            :: offset[IT(i, t)] < o -> offset[IT(i, t)]++; tell_message(i, t)
            :: else -> break
            od
        fi;
        own_received(i, t)
    fi;
    owed[IJT(i, j, t)]++;
    if
    :: !GOES_ON(i, t) -> answer(i, t)
    :: else
    fi
}

inline follow(i, j, t, e, o) {
    if
    :: role[IT(i, t)] == IDLE && table_open[i] && OWNER_OF(table_view[i], t) == i -> begin(i, t)
    :: else
    fi;
    if
    :: role[IT(i, t)] == OWNS ->
        start_ = KEPT(t, offset[IT(i, t)]);
        if
        :: epoch[IT(i, t)] == e && o <= offset[IT(i, t)] && o > start_ -> start_ = o
        :: else
        fi;
        serve(i, t, j, start_);
        start_ = 0
    :: else ->
        found = (role[IT(i, t)] == LIVE -> owner[IT(i, t)] : NONE);
        push(i, j, NOT_OWNER, t, found, 0, 0);
        found = 0
    fi
}

inline following(i, j, t, e, first, latest) {
    if
    :: (role[IT(i, t)] == ASKED || role[IT(i, t)] == LIVE) && owner[IT(i, t)] == j ->
        role[IT(i, t)] = LIVE;
        if
        :: epoch[IT(i, t)] == e && offset[IT(i, t)] <= latest ->
            if
            :: offset[IT(i, t)] < first -> skip_to(i, t, first)
            :: else
            fi
        :: else -> restart(i, t, e, first, latest)
        fi
    :: else
    fi
}

inline handle_message(i, j) {
    if
    :: kind == FOLLOW -> follow(i, j, top, one, two)
    :: kind == FOLLOWING -> following(i, j, top, one, two, three)
    :: kind == DELIVER ->
        if
        :: role[IT(i, top)] == LIVE && owner[IT(i, top)] == j && epoch[IT(i, top)] == one ->
            if
            :: two > offset[IT(i, top)] + 1 -> skip_to(i, top, two - 1)
            :: else
            fi;
            if
            :: two == offset[IT(i, top)] + 1 -> offset[IT(i, top)] = two; tell_message(i, top)
            :: else
            fi
        :: else
        fi
    :: kind == NOT_OWNER ->
        if
        :: (role[IT(i, top)] == ASKED || role[IT(i, top)] == LIVE) && owner[IT(i, top)] == j ->
            role[IT(i, top)] = IDLE;
            owner[IT(i, top)] = 0;
            if
            :: one != NONE && one != j && one != i -> hint[IT(i, top)] = one
            :: else
            fi;
            is_retried[IT(i, top)] = true
        :: else
        fi
    :: kind == HANDOVER -> receive(i, j, top, one, two)
    :: kind == RELEASED ->
        if
        :: role[IT(i, top)] == LIVE && owner[IT(i, top)] == j ->
            role[IT(i, top)] = IDLE;
            owner[IT(i, top)] = 0;
            hint[IT(i, top)] = one;
            is_retried[IT(i, top)] = false;
            drive(i, top)
        :: else
        fi
    :: kind == TAKEN ->
        if
        :: handed[IJT(i, j, top)] > 0 ->
            handed[IJT(i, j, top)]--;
            if
            :: handed[IJT(i, j, top)] == 0 -> answer(i, top)
            :: else
            fi
        :: else
        fi
    :: kind == DIVERGED ->
        push(i, j, TAKEN, top, 0, 0, 0);
        note_diverged(i, top)
    :: kind == E_VIEW -> handle_view(i, one)
    :: kind == E_OPEN ->
        table_open[i] = one;
        if
        :: one -> drive(i, 0); drive(i, 1)
        :: else
        fi
    :: kind == E_SETTLE ->
        settle[IJ(i, j)] = one;
        settle_view[IJ(i, j)] = two;
        settle_own[IJ(i, j)] = three
    :: kind == E_RESET -> handle_reset(i, j)
    :: else
    fi;
    if
    :: kind == E_SETTLE || kind == E_AGREED ->
        moving[i] = moving[i] | visiting[i];
        visiting[i] = 0;
        has_reports[i] = diverged[i] != 0
    :: else
    fi
}

#ifdef SETTLE_EARLY
#define IS_SETTLED(i) (moving[i] == 0 && !has_reports[i])
#else
#define IS_SETTLED(i) (moving[i] == 0 && !has_reports[i] && !IS_HANDED(i, 0) && !IS_HANDED(i, 1))
#endif

/* Answers the views of others, if nothing is on its way to other owners. */
inline settle_views(i) {
    for (k_set : 0 .. N - 1) {
        if
        :: settle[IJ(i, k_set)] != 0 && IS_SETTLED(i) && HAS(sees[i], k_set) ->
            one = settle[IJ(i, k_set)];
            two = settle_view[IJ(i, k_set)];
            settle[IJ(i, k_set)] = 0;
            settle_view[IJ(i, k_set)] = 0;
            if
#ifdef SETTLE_STALE
            :: true -> push(i, k_set, SETTLED, 0, one, 0, 0)
#else
            :: settle_own[IJ(i, k_set)] == number[i] -> push(i, k_set, SETTLED, 0, one, 0, 0)
            :: settle_own[IJ(i, k_set)] != number[i] && (announced[IJ(i, k_set)] == 0 || announced[IJ(i, k_set)] < one) ->
                announced[IJ(i, k_set)] = one;
                announced_view[IJ(i, k_set)] = two;
                answer_view(i, k_set)
#endif
            :: else
            fi;
            settle_own[IJ(i, k_set)] = 0
        :: else
        fi
    }
    k_set = 0;
    one = 0; two = 0
}

/* two nodes own one topic at a time only if one did not see the other when it began the topic */
inline check_owners(t) {
    assert(is_split[t] || (role[IT(0, t)] == OWNS) + (role[IT(1, t)] == OWNS) + (role[IT(2, t)] == OWNS) <= 1)
}

inline clear(i) {
    phase[i] = DOWN;
    sees[i] = 0; owners_seen[i] = 0; view[i] = 0; has_settled[i] = 0; is_open[i] = false; has_taken_leave[i] = false;
    table_view[i] = 0; moving[i] = 0; visiting[i] = 0; diverged[i] = 0; table_open[i] = false; has_reports[i] = false;
    do
    :: len(events[i]) > 0 -> events[i]?_, _, _, _, _, _
    :: else -> break
    od;
    for (k_clr : 0 .. N - 1) {
        announced[IJ(i, k_clr)] = 0; announced_view[IJ(i, k_clr)] = 0; peer_view[IJ(i, k_clr)] = 0;
        settle[IJ(i, k_clr)] = 0; settle_view[IJ(i, k_clr)] = 0; settle_own[IJ(i, k_clr)] = 0;
        handed[IJT(i, k_clr, 0)] = 0; handed[IJT(i, k_clr, 1)] = 0; owed[IJT(i, k_clr, 0)] = 0; owed[IJT(i, k_clr, 1)] = 0
    }
    for (k_clr : 0 .. 1) {
        role[IT(i, k_clr)] = IDLE; owner[IT(i, k_clr)] = 0; epoch[IT(i, k_clr)] = 0; offset[IT(i, k_clr)] = 0;
        followers[IT(i, k_clr)] = 0; hint[IT(i, k_clr)] = NONE; is_retried[IT(i, k_clr)] = false;
        told_epoch[IT(i, k_clr)] = 0; told_offset[IT(i, k_clr)] = 0; has_missed[IT(i, k_clr)] = false
    }
    k_clr = 0
}

#define KNOWS_ALL(i, j) (i == j || !IS_UP(j) || !REACHES(i, j) || SEE_EACH_OTHER(i, j))
#define IS_DONE(i, j) (!HAS(sees[i], j) || (HAS(has_settled[i], j) && empty(link[IJ(i, j)])))

/* The table takes an event. */
inline step(i) {
    events[i]?kind, from, top, one, two, three;
    handle_message(i, from);
    kind = 0; from = 0; top = 0; one = 0; two = 0; three = 0;
    hand_over(i);
    settle_views(i);
    check_owners(0);
    check_owners(1)
}

/* Without LAG, the table takes every event at once. */
inline run_table(i) {
#ifdef LAG
    skip
#else
    do
    :: len(events[i]) > 0 -> step(i)
    :: else -> break
    od
#endif
}

/* Of what comes from j, and what i knows of j. */
proctype Link(byte i; byte j) {
end:
    do
    :: atomic {
        if
        :: IS_UP(i) && IS_UP(j) && REACHES(i, j) && (!HAS(sees[i], j) || HAS(owners_seen[i], j) != (phase[j] == ACTIVE)) -> hear(i, j)
        :: IS_UP(i) && HAS(sees[i], j) && (!IS_UP(j) || !REACHES(i, j)) -> drop_peer(i, j)
        :: IS_UP(i) && IS_UP(j) && REACHES(i, j) && HAS(sees[i], j) && HAS(sees[j], i) && theirs[IJ(i, j)] != session[IJ(j, i)] ->
            learn_session(i, j)
        :: IS_UP(i) && HAS(sees[i], j) && REACHES(i, j) && (!IS_UP(j) || HAS(sees[j], i)) && MUTUAL(i, j) && nempty(link[IJ(j, i)]) ->
            take(i, j)
        fi;
        run_table(i) }
    od
}

proctype Node(byte i) {
end:
    do
#ifdef LAG
    :: atomic { nempty(events[i]) -> step(i) }
#endif
    :: atomic {
        if
        /* A node that joins listens for longer than the others' interval of heartbeats. */
        :: phase[i] == JOINING && KNOWS_ALL(i, 0) && KNOWS_ALL(i, 1) && KNOWS_ALL(i, 2) -> phase[i] = ACTIVE; update(i)
        :: phase[i] == LEAVING && !has_taken_leave[i] && IS_SETTLED(i) && empty(events[i]) -> has_taken_leave[i] = true; announce(i)
        :: phase[i] == LEAVING && has_taken_leave[i] && IS_SETTLED(i) && empty(events[i]) && IS_DONE(i, 0) && IS_DONE(i, 1) && IS_DONE(i, 2) ->
            clear(i)
        :: IS_UP(i) && MAY_RETRY(i) && is_retried[IT(i, 0)] -> is_retried[IT(i, 0)] = false; drive(i, 0)
        :: IS_UP(i) && MAY_RETRY(i) && is_retried[IT(i, 1)] -> is_retried[IT(i, 1)] = false; drive(i, 1)
#ifdef WAITS
        :: HAS(moving[i], 0) -> hand_over_moving(i, 0); settle_views(i)
        :: HAS(moving[i], 1) -> hand_over_moving(i, 1); settle_views(i)
#endif
        :: role[IT(i, 0)] == OWNS && publications[0] < PUBS -> publications[0]++; append(i, 0)
        :: role[IT(i, 1)] == OWNS && publications[1] < PUBS -> publications[1]++; append(i, 1)
        :: leaves < LEAVES && phase[i] == ACTIVE -> leaves++; phase[i] = LEAVING; update(i)
        :: kills < KILLS && IS_UP(i) -> kills++; was_killed = true; had_fault = true; clear(i)
        :: cuts < CUTS && cut == 0 && IS_UP(i) -> cuts++; had_fault = true; cut = BIT(i)
        fi;
        run_table(i) }
    od
}

/* ---- the end: everything is connected again, and nothing is on its way ---- */

inline check_end(i) {
    if
    :: IS_UP(i) ->
        assert(phase[i] == ACTIVE && view[i] == up && is_open[i]);
        for (k_is : 0 .. 1) {
            own = OWNER_OF(up, k_is);
            /* one owner of each topic */
            assert((role[IT(i, k_is)] == OWNS) == (own == i));
            assert(i == own || (role[IT(i, k_is)] == LIVE && owner[IT(i, k_is)] == own));
            /* every subscriber at its end */
            assert(told_epoch[IT(i, k_is)] == epoch[IT(own, k_is)] && told_offset[IT(i, k_is)] == offset[IT(own, k_is)]);
            /* no subscriber has stayed in an epoch while its topic had messages in another */
            assert(was_killed || !has_missed[IT(i, k_is)]);
            assert(!HAS(diverged[i], k_is) && !IS_HANDED(i, k_is))
        }
        own = 0
    :: else
    fi
}

active proctype World() {
    byte up;
    atomic {
        hint[0] = NONE; hint[1] = NONE; hint[2] = NONE; hint[3] = NONE; hint[4] = NONE; hint[5] = NONE;
        /* The nodes of the start have agreed, and follow each other's topics. */
        epochs = 2;
        for (k_own : 0 .. START - 1) {
            phase[k_own] = ACTIVE; sees[k_own] = ALL & ~BIT(k_own); owners_seen[k_own] = sees[k_own];
            has_settled[k_own] = sees[k_own]; view[k_own] = ALL; table_view[k_own] = ALL; number[k_own] = 1;
            is_open[k_own] = true; table_open[k_own] = true;
            for (k_is : 0 .. START - 1) {
                if
                :: k_is != k_own ->
                    session[IJ(k_own, k_is)] = 1; theirs[IJ(k_own, k_is)] = 1; has_begun[IJ(k_own, k_is)] = true;
                    peer_view[IJ(k_own, k_is)] = ALL
                :: else
                fi
            }
            for (k_is : 0 .. 1) {
                epoch[IT(k_own, k_is)] = k_is + 1; told_epoch[IT(k_own, k_is)] = k_is + 1;
                if
                :: OWNER_OF(ALL, k_is) == k_own -> role[IT(k_own, k_is)] = OWNS; followers[IT(k_own, k_is)] = sees[k_own]
                :: else -> role[IT(k_own, k_is)] = LIVE; owner[IT(k_own, k_is)] = OWNER_OF(ALL, k_is)
                fi
            }
        }
#ifdef JOINED
        for (k_own : 0 .. START - 1) {
            view[k_own] = 3; table_view[k_own] = 3; owners_seen[k_own] = 3 & ~BIT(k_own);
            for (k_is : 0 .. START - 1) {
                peer_view[IJ(k_own, k_is)] = (k_is != k_own -> 3 : 0)
            }
            for (k_is : 0 .. 1) {
                role[IT(k_own, k_is)] = (k_own == 1 -> OWNS : LIVE);
                owner[IT(k_own, k_is)] = (k_own == 1 -> 0 : 1);
                followers[IT(k_own, k_is)] = (k_own == 1 -> 5 : 0)
            }
        }
        phase[2] = JOINING; is_open[2] = false; table_open[2] = false;
        has_settled[0] = BIT(2); is_open[0] = false; table_open[0] = false;
        moving[1] = BIT(0);
        settle[IJ(1, 0)] = number[0]; settle_view[IJ(1, 0)] = 3; settle_own[IJ(1, 0)] = number[1];
#endif
        k_own = 0; k_is = 0;
        run Link(0, 1); run Link(1, 0); run Link(0, 2); run Link(2, 0); run Link(1, 2); run Link(2, 1);
        run Node(0); run Node(1); run Node(2)
    }
end:
    do
    :: atomic { joins < JOINS -> phase[START + joins] = JOINING; joins++ }
    :: atomic { cut != 0 -> cut = 0 }
    :: atomic { timeout ->
            up = (IS_UP(0) -> 1 : 0) | (IS_UP(1) -> 2 : 0) | (IS_UP(2) -> 4 : 0);
            check_end(0); check_end(1); check_end(2);
            break }
    od
}
