# What ran, what could not, and the closing line of tools/test: sourced, never run.
#
#   check TITLE CMD...          one pass or fail
#   cargo_tests TITLE ARGS...   `cargo ARGS`, its tests counted from its own output
#   cannot TITLE REASON         said now and again at the end
#   verdict                     summary, closing line, exit code

count_passed=0 count_failed=0
# Tests marked `#[ignore]`, and those of them that a later `--ignored` run took up.
count_ignored=0 count_taken_up=0
count_cannot=() count_broken=() count_ran=()

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

cannot() {
  setup_say "== $1: cannot run here: $2"
  count_cannot+=("$1: $2")
}

verdict() {
  local line skipped=$((count_ignored > count_taken_up ? count_ignored - count_taken_up : 0))
  echo
  for line in "${count_ran[@]+"${count_ran[@]}"}"; do echo "ran: $line"; done
  for line in "${count_cannot[@]+"${count_cannot[@]}"}"; do echo "could not run: $line"; done
  for line in "${count_broken[@]+"${count_broken[@]}"}"; do echo "FAILED: $line"; done
  skipped=$((skipped > ${#count_cannot[@]} ? skipped : ${#count_cannot[@]}))
  echo "$count_passed passed, $count_failed failed, $skipped skipped"
  [ "$count_failed" -eq 0 ] && [ "$count_passed" -gt 0 ]
}
