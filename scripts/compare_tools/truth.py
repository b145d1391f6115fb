"""What the log of the application says: the percentiles that a tool has to find, and how many requests there were.

Two questions, two answers:

    as sent     From each request's own send, by the time that it has in it, until its answer was written. A tool that
                measures from its sends has to find these percentiles, of the requests that it did send.
    as asked    What users meet who ask at equal intervals, whatever the tool did: each due time of the rate is taken
                through the stalls and pauses of the log, and gets the delay that the application has for the request. A
                tool that is told a rate has to find these.

Both add the time that a message needs from one process to the other, which a probe measures without load. Times are in
nanoseconds. Only the standard library is needed.
"""

import bisect
import dataclasses
import heapq
import math

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
# As the application draws delays.
MEANS_MAX = 8.0
MASK = (1 << 64) - 1


@dataclasses.dataclass
class Request:
    user: int
    id: int
    sent: int
    read: int
    delay: int
    written: int | None


class Log:
    def __init__(self, lines):
        self.requests, self.stalls, self.pauses, self.clock_step = [], [], [], 0
        for line in lines:
            kind, *values = line.rstrip("\n").split(",")
            numbers = [int(value) if value else None for value in values]
            if kind == "request":
                self.requests.append(Request(*numbers))
            elif kind == "clock":
                self.clock_step = numbers[0]
            else:
                {"stall": self.stalls, "pause": self.pauses}[kind].append(tuple(numbers))

    @classmethod
    def read(cls, path):
        with open(path) as file:
            return cls(file)

    def answered(self):
        return [request for request in self.requests if request.written is not None]

    def doubles(self):
        """Requests with an id that the user had before."""
        return len(self.requests) - len({(request.user, request.id) for request in self.requests})

    def overtaken(self):
        """Answers that were written behind the answer to a later request of the same user."""
        count, latest = 0, {}
        for request in sorted(self.answered(), key=lambda request: request.written):
            count += request.id < latest.get(request.user, 0)
            latest[request.user] = max(request.id, latest.get(request.user, 0))
        return count

    def blocked(self):
        """Stalls and pauses, in order and apart."""
        found = []
        for start, end in sorted(self.stalls + self.pauses):
            if found and start <= found[-1][1]:
                found[-1][1] = max(end, found[-1][1])
            else:
                found.append([start, end])
        return found

    def step_ns(self):
        """Time of the application for a request or an answer, by how it works off what came during its stalls."""
        time, steps = 0, 0
        for start, end in self.stalls:
            waited = [request.read for request in self.requests if start <= request.sent < end and request.read >= end]
            if not waited:
                continue
            over = max(waited)
            time += over - end
            steps += len(waited) + sum(1 for request in self.answered() if end <= request.written <= over)
        return round(time / steps) if steps else 0


def delay(user, request, mean_ns):
    """The delay that the application has for a request, in nanoseconds."""
    bits = (((user << 40) ^ request) + 1) * 0x9E3779B97F4A7C15 & MASK
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & MASK
    uniform = ((bits ^ (bits >> 31)) >> 11) / (1 << 53)
    return round(mean_ns * min(-math.log(1.0 - uniform), MEANS_MAX))


def as_sent(log, back_ns):
    return [request.written - request.sent + back_ns for request in log.answered()]


def due_times(log, interval_ns, count):
    """The due times of each user's requests: the first when it was sent, and from then on at equal intervals."""
    first = {}
    for request in log.requests:
        first[request.user] = min(request.sent, first.get(request.user, request.sent))
    return {(user, n + 1): start + round(n * interval_ns) for user, start in first.items() for n in range(count)}


def as_asked(log, due, mean_ns, there_ns, back_ns):
    """Response times of users whose requests are sent when they are due, by user and id."""
    blocked, step = log.blocked(), log.step_ns()
    starts = [start for start, _ in blocked]

    def free(at):
        last = bisect.bisect_right(starts, at) - 1
        return max(at, blocked[last][1]) if last >= 0 else at

    # The application does one thing at a time: it reads a request, or writes an answer.
    events = [(at + round(there_ns), "read", *request) for request, at in due.items()]
    heapq.heapify(events)
    found, idle = {}, 0
    while events:
        at, what, user, request = heapq.heappop(events)
        at = free(max(at, idle))
        idle = at + step
        if what == "read":
            heapq.heappush(events, (at + delay(user, request, mean_ns), "write", user, request))
        else:
            found[user, request] = idle - due[user, request] + round(back_ns)
    return found


def percentiles(values):
    """In milliseconds: the smallest value that is not below the share of all."""
    ordered = sorted(values)
    return {
        name: ordered[max(0, math.ceil(share * len(ordered)) - 1)] / 1e6 for name, share in PERCENTILES.items()
    }
