# What ran, what could not, and the closing line of tools/test: sourced, never run.
#
#   check TITLE CMD...          one pass or fail
#   cargo_tests TITLE ARGS...   `cargo ARGS`, its tests counted from its own output
#   timed_tests TITLE FILE...   ignored tests of these files, one after another; what fails is tried again (docs/decisions/0011)
#   cannot TITLE REASON         said now and again at the end
#   left_out TITLE COMMAND      what this run did not ask for, and how it is run; said at the end
#   verdict                     summary, closing line, exit code

count_passed=0 count_failed=0
# Tests marked `#[ignore]`, and those of them that a later `--ignored` run took up.
count_ignored=0 count_taken_up=0
count_cannot=() count_left_out=() count_broken=() count_ran=() count_unstable=()
# What failed in the last `cargo_tests`, as "FILE NAME" each.
count_last_failed=()

# How many tests of a run may be unstable, and how often in a row such a test must pass.
readonly COUNT_MAX_UNSTABLE=2 COUNT_AGAIN=3
# The file whose tests are never unstable: what it promises of healing holds each time.
readonly COUNT_NEVER_UNSTABLE=scenarios

check() {
  local title=$1 since=$SECONDS
  shift
  setup_say "== $title: $*"
  if "$@" </dev/null; then
    count_passed=$((count_passed + 1))
    count_ran+=("$title: ok, $((SECONDS - since)) s")
  else
    count_failed=$((count_failed + 1))
    count_broken+=("$title")
  fi
}

cargo_tests() {
  local title=$1 log status since=$SECONDS passed failed ignored
  shift
  setup_say "== $title: cargo $*"
  log=$(mktemp)
  cargo "$@" </dev/null 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  read -r passed failed ignored < <(awk '/^test result:/ {
      for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1); if ($i ~ /^ignored/) g += $(i-1) }
    } END { print p + 0, f + 0, g + 0 }' "$log")
  mapfile -t count_last_failed < <(awk '
      $1 == "Running" { n = split($2, path, "/"); sub(/\.rs$/, "", path[n]); file = path[n] }
      $1 == "test" && $3 == "..." && $NF == "FAILED" { print file, $2 }
    ' "$log")
  rm -f "$log"
  # A build that fails, or a test process that dies, has no result line of its own.
  if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
  if [ "$passed" -eq 0 ] && [ "$failed" -eq 0 ]; then cannot "$title" "no such test yet"; fi
  count_passed=$((count_passed + passed))
  count_failed=$((count_failed + failed))
  case " $* " in
    *" --ignored "*) count_taken_up=$((count_taken_up + passed + failed)) ;;
    *) count_ignored=$((count_ignored + ignored)) ;;
  esac
  count_ran+=("$title: $passed passed, $failed failed, $((SECONDS - since)) s")
  if [ "$failed" -ne 0 ]; then count_broken+=("$title"); fi
}

# A shared machine stalls now and then, a broken program fails again: a test that fails passes as unstable if it then passes
# so often in a row, alone. It is told, and the run fails if there are many.
timed_tests() {
  local title=$1 args=() file failed test try
  shift
  for file in "$@"; do args+=(--test "$(basename "$file" .rs)"); done
  failed=$count_failed
  cargo_tests "$title" test --workspace --locked --no-fail-fast "${args[@]}" -- --ignored --test-threads=1 --skip how_fast
  # What died without a name is not tried again.
  failed=$((count_failed - failed))
  [ "$failed" -gt 0 ] && [ "$failed" -eq ${#count_last_failed[@]} ] || return
  for test in "${count_last_failed[@]}"; do
    if [ "${test% *}" = $COUNT_NEVER_UNSTABLE ]; then continue; fi
    if [ ${#count_unstable[@]} -eq $COUNT_MAX_UNSTABLE ]; then return; fi
    for ((try = 1; try <= COUNT_AGAIN; try++)); do
      setup_say "== $title: ${test#* } again, $try of $COUNT_AGAIN"
      cargo test --workspace --locked --test "${test% *}" -- --ignored --exact "${test#* }" </dev/null 2>&1 || return
    done
    count_unstable+=("$title: ${test#* } failed, then passed $COUNT_AGAIN times in a row")
    count_failed=$((count_failed - 1)) count_passed=$((count_passed + 1)) failed=$((failed - 1))
  done
  if [ "$failed" -eq 0 ]; then unset "count_broken[-1]"; fi
}

cannot() {
  setup_say "== $1: cannot run here: $2"
  count_cannot+=("$1: $2")
}

left_out() { count_left_out+=("$1: $2"); }

verdict() {
  local line skipped=$((count_ignored > count_taken_up ? count_ignored - count_taken_up : 0))
  echo
  for line in "${count_ran[@]+"${count_ran[@]}"}"; do echo "ran: $line"; done
  for line in "${count_cannot[@]+"${count_cannot[@]}"}"; do echo "could not run: $line"; done
  for line in "${count_left_out[@]+"${count_left_out[@]}"}"; do echo "not part of this run: $line"; done
  for line in "${count_unstable[@]+"${count_unstable[@]}"}"; do echo "UNSTABLE: $line"; done
  for line in "${count_broken[@]+"${count_broken[@]}"}"; do echo "FAILED: $line"; done
  skipped=$((skipped > ${#count_cannot[@]} ? skipped : ${#count_cannot[@]}))
  echo "$count_passed passed, $count_failed failed, $skipped skipped"
  [ "$count_failed" -eq 0 ] && [ "$count_passed" -gt 0 ]
}
