# What each task of the array does around its run: the same lines in every launch.
#
# Its run is $launch/${stage}_$run.sh. Exit code 0 ends the task. Where the time was up (code 75, see
# docs/slurm.md) it is put back into the queue, and after any other failure too, but for the third.
run="${name}_$(printf %04d "$SLURM_ARRAY_TASK_ID")"
task="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
history="$launch/state/${stage}_$run"  # a line for each start and end
begun="$history.begun"
export PYTC_RUNS="$runs"

note() { echo "$(date +%FT%T) $*" | tee -a "$history"; }

put_back() {
    trap '' TERM  # which Slurm sends to a job that is put back
    note "put back: $1"
    scontrol requeue "$task" || note "not put back: Slurm refuses it"
}

count_failure() {
    note "failed: $1"
    if [ "$(grep --count ' failed: ' "$history")" -lt "$max_failures" ]; then
        put_back "after a failure"
    else
        note "given up: $max_failures failures"
    fi
}

# The end of its time is no failure of a run that kept something of this start.
time_is_up() {
    if [ -n "$kept" ] && [ -n "$(find "$runs/$run/$kept" -newer "$begun" -print -quit 2> /dev/null)" ]
    then
        put_back "$1"
    else
        count_failure "$1, and nothing was kept since the start"
    fi
}

# Slurm sends USR1 to this script alone, $notice seconds before the time is up. What runs in the
# process group gets it from here: an srun, which sends it to all its tasks, or the program itself.
on_usr1() {
    is_late=yes
    note "asked to end: its time is nearly up"
    kill -USR1 -- "-$child"
}

# Slurm sends TERM to every process of a job that it ends. A preempted job it puts back by itself, a
# cancelled one stays ended, and one whose time is up would be lost. Before a preemption it may send
# TERM, too, as a notice: then the job is still running.
on_term() {
    case "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format "%T %r")" in
        RUNNING*) is_late=yes ;;
        *TimeLimit)
            is_ended=yes
            time_is_up "its time was up" ;;
        *)
            is_ended=yes
            note "ended by Slurm: preempted or cancelled" ;;
    esac
}

note "started: job $task on $(hostname)"
touch "$begun"
is_late=
is_ended=
set -m  # the run has a process group of its own
(
    trap : USR1 TERM  # this shell outlives them, and ends with what it waits for
    source "$launch/${stage}_$run.sh"
) &
child=$!
trap on_usr1 USR1
trap on_term TERM
while kill -0 "$child" 2> /dev/null; do wait "$child"; done  # a signal interrupts `wait`
wait "$child"
code=$?

if [ -n "$is_ended" ]; then
    exit "$code"
elif [ "$code" -eq 0 ]; then
    note "done"
elif [ "$code" -eq 130 ]; then
    note "stopped by hand: exit code 130"
elif [ "$code" -eq 75 ] || [ -n "$is_late" ]; then
    time_is_up "asked to end, exit code $code"
else
    count_failure "exit code $code"
fi
"${pytc[@]}" launch --status "$launch" --quiet > /dev/null  # brings scores.csv up to date
exit "$code"
