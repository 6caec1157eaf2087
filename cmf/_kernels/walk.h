/* One walk through the blocks of a grid, by threads that hold no lock of the interpreter.
 *
 * Rows are dealt to groups and columns to strips, as grid.py tells; a block is a group and a strip,
 * and each is visited once. With m groups for every strip, m n groups and n strips, think of m n
 * rounds and as many places on a circle, where strip s has place m s and the places between stand
 * empty: in round t group g is at place g + t. The blocks of one group are visited in the order of
 * these rounds, and so are those of one strip; what is visited at once shares neither. So the result
 * does not depend on who visits a block, and when.
 *
 * A worker goes on with its strip, which is in its cache, until this is m groups ahead of others.
 * In the last m rounds it does not, lest at the end one worker is left with a strip that nobody can
 * share.
 *
 * A block is visited in calls of bounded length, between which a walk can be stopped. The mutex is
 * held for a look at the numbers below, once a call.
 */
#ifndef CMF_WALK_H
#define CMF_WALK_H

#include <Python.h>
#include <stdint.h>
#include <time.h>

/* Microseconds that worker 0 sleeps at most before it goes back to the interpreter, too. */
#define CMF_LONGEST_SLEEP 50000

typedef enum { CMF_OVER, CMF_PAUSED, CMF_VISIT } cmf_walk_state;

typedef struct {
    int64_t group, strip;  /* the block that it holds; group -1: none */
    int64_t call;          /* of this block: the one to visit next, or visited now */
    int visiting;          /* whether that one has been handed out */
    int asleep;
    int fresh;             /* whether it has made no call since it left the interpreter, */
    clock_t since;         /* which was then, by the time of the processors */
    PyThread_type_lock wake; /* released to wake it */
} cmf_worker;

typedef struct {
    int64_t n_strips, n_groups;
    int64_t *calls;        /* (n_calls + 1,) call c visits positions calls[c] to calls[c + 1] - 1 */
    int64_t *group_calls;  /* (n_groups + 1,) group g has calls group_calls[g] to the next */
    double *losses;        /* (n_groups, n_strips) for the visitors to add to */
    double *squares;       /* (n_strips + n_groups,) for those who finish strips, and groups */
    int64_t *strip_visits; /* (n_strips,) groups that have visited the strip */
    int64_t *group_visits; /* (n_groups,) strips that the group has visited */
    int *strip_held;       /* (n_strips,) whether a worker is there */
    int *group_held;       /* (n_groups,) */
    cmf_worker *workers;   /* (n_strips,) more can never be of use */
    int64_t n_taken;       /* blocks */
    double patience;       /* worker 0 goes back to the interpreter after so many ticks */
    int stopped;
    PyThread_type_lock mutex; /* of all that changes here */
} cmf_walk;

/* The group that is to visit a strip next, if it may; else -1. */
static inline int64_t cmf_walk_ready(const cmf_walk *walk, int64_t strip) {
    const int64_t n = walk->n_strips, m = walk->n_groups / n, round = walk->strip_visits[strip];
    if (walk->strip_held[strip] || round == walk->n_groups) return -1;
    const int64_t group = (m * strip - round + walk->n_groups) % walk->n_groups;
    const int64_t own_first = (group + m - 1) / m % n; /* the strip where the group begins */
    const int64_t before = (strip - own_first + n) % n;
    return !walk->group_held[group] && walk->group_visits[group] == before ? group : -1;
}

/* Take the block that is furthest behind, if there is one. */
static inline int cmf_walk_take(cmf_walk *walk, cmf_worker *worker) {
    const int64_t m = walk->n_groups / walk->n_strips, last = walk->n_groups - m;
    int64_t found = -1, found_group = -1, least = INT64_MAX;
    for (int64_t strip = 0; strip < walk->n_strips; strip++) {
        const int64_t group = cmf_walk_ready(walk, strip), done = walk->strip_visits[strip];
        const int64_t behind = 2 * (done < last ? done / m : done) + (strip != worker->strip);
        if (group >= 0 && behind < least) {
            least = behind;
            found = strip;
            found_group = group;
        }
    }
    if (found < 0) return 0;
    walk->strip_held[found] = walk->group_held[found_group] = 1;
    walk->n_taken++;
    worker->strip = found;
    worker->group = found_group;
    worker->call = walk->group_calls[found_group];
    return 1;
}

static inline void cmf_walk_wake(cmf_walk *walk) {
    for (int64_t w = 0; w < walk->n_strips; w++)
        if (walk->workers[w].asleep) {
            walk->workers[w].asleep = 0;
            PyThread_release_lock(walk->workers[w].wake);
        }
}

/* Sleep, without the mutex, until a block has been given back; 0 if worker 0 is not to wait on. */
static inline int cmf_walk_sleep(cmf_walk *walk, cmf_worker *worker) {
    const int patient = worker != walk->workers;
    worker->asleep = 1;
    PyThread_release_lock(walk->mutex);
    PyThread_acquire_lock_timed(worker->wake, patient ? -1 : CMF_LONGEST_SLEEP, 0);
    PyThread_acquire_lock(walk->mutex, WAIT_LOCK);
    const int woken = !worker->asleep;
    worker->asleep = 0;
    /* Where the sleep ended by itself just before, the lock is still to be taken. */
    if (woken) PyThread_acquire_lock(worker->wake, NOWAIT_LOCK);
    return woken;
}

/* A worker begins, or comes back from the interpreter. */
static inline cmf_worker *cmf_walk_enter(cmf_walk *walk, int64_t number) {
    cmf_worker *worker = walk->workers + number;
    worker->fresh = 1;
    worker->since = clock();
    return worker;
}

/* Whether Ctrl-C may have been waiting for the calling thread for too long. */
static inline int cmf_walk_is_impatient(const cmf_walk *walk, const cmf_worker *worker) {
    return worker == walk->workers && !worker->fresh &&
           (double)(clock() - worker->since) > walk->patience;
}

/* Note that a worker has made the visit it was on, and find the next one: CMF_VISIT. CMF_PAUSED:
 * enter again, but let the interpreter look for signals before. */
static inline cmf_walk_state cmf_walk_next(cmf_walk *walk, cmf_worker *worker) {
    cmf_walk_state state = CMF_VISIT;
    PyThread_acquire_lock(walk->mutex, WAIT_LOCK);
    if (worker->visiting) {
        worker->visiting = 0;
        if (++worker->call == walk->group_calls[worker->group + 1]) {
            walk->strip_held[worker->strip] = walk->group_held[worker->group] = 0;
            walk->strip_visits[worker->strip]++;
            walk->group_visits[worker->group]++;
            worker->group = -1;
            cmf_walk_wake(walk);
        }
    }
    for (;;) {
        if (walk->stopped) {
            state = CMF_OVER;
        } else if (cmf_walk_is_impatient(walk, worker)) {
            state = CMF_PAUSED;
        } else if (worker->group < 0 && !cmf_walk_take(walk, worker)) {
            if (walk->n_taken == walk->n_groups * walk->n_strips)
                state = CMF_OVER;
            else if (cmf_walk_sleep(walk, worker))
                continue;
            else
                state = CMF_PAUSED;
        }
        break;
    }
    worker->visiting = state == CMF_VISIT;
    worker->fresh = 0;
    PyThread_release_lock(walk->mutex);
    return state;
}

/* Whether nobody visits the worker's strip after the visit it is on. */
static inline int cmf_walk_ends_strip(const cmf_walk *walk, const cmf_worker *worker) {
    return walk->strip_visits[worker->strip] == walk->n_groups - 1 &&
           worker->call + 1 == walk->group_calls[worker->group + 1];
}

/* The same for the worker's group. */
static inline int cmf_walk_ends_group(const cmf_walk *walk, const cmf_worker *worker) {
    return walk->group_visits[worker->group] == walk->n_strips - 1 &&
           worker->call + 1 == walk->group_calls[worker->group + 1];
}

#endif
