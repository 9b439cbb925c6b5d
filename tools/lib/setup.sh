# Set-up shared by tools/test, tools/demo and tools/bench: sourced, never run.
#
#   setup_say TEXT            a progress line on stderr
#   setup_step TEXT CMD...    run CMD quietly, show its log when it fails
#   setup_packages GROUP...   Debian packages of a group: build run capture kafka package bench
#   setup_rust                cargo on the PATH, through rustup when there is none
#   setup_binaries            release binaries; WATTLE_BIN_DIR says where they are
#   setup_debug_binaries      all binaries in the development profile, likewise
#
# Nothing that is there already is installed again, so a second run starts at once.

setup_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
setup_started=$SECONDS

setup_say() { printf '[%3ds] %s\n' $((SECONDS - setup_started)) "$*" >&2; }
setup_die() { setup_say "error: $*"; exit 1; }

# The whole log of a set-up step is of interest only when the step fails.
setup_step() {
  local title=$1 log
  shift
  log=$(mktemp)
  setup_say "$title"
  if ! "$@" >"$log" 2>&1 </dev/null; then
    tail -n 60 "$log" >&2
    rm -f "$log"
    setup_die "$title: failed, its last lines are above"
  fi
  rm -f "$log"
}

setup_group() {
  case $1 in
    build) echo build-essential cmake pkg-config perl curl ca-certificates git ;;
    run) echo iproute2 nftables iperf3 fping iputils-ping ethtool procps python3 ;;
    capture) echo tcpdump kcat wireguard-go wireguard-tools jq openssl python3-jsonschema ;;
    kafka) echo default-jre-headless maven kcat jq graphviz libxml2-utils python3-confluent-kafka python3-networkx ;;
    package) echo dpkg-dev debootstrap systemd ;;
    bench) echo wireguard-go wireguard-tools nebula tinc fastd frr bird2 babeld ;;
    *) setup_die "setup_packages: no group $1" ;;
  esac
}

setup_packages() {
  local group name missing=()
  for group in "$@"; do
    for name in $(setup_group "$group"); do
      dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || setup_die "please install: ${missing[*]} (these names are Debian's)"
  [ "$(id -u)" -eq 0 ] || setup_die "packages are missing; run again with sudo, or: sudo apt-get install ${missing[*]}"
  setup_step "apt-get update" apt-get update -q
  # A bench's daemons are started by the bench; a package that starts its own would be in the way.
  local policy=/usr/sbin/policy-rc.d ours=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && ours=yes
  fi
  DEBIAN_FRONTEND=noninteractive setup_step "apt-get install ${missing[*]}" \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
  [ -z "$ours" ] || rm -f "$policy"
}

setup_rust() {
  local home
  if ! command -v cargo >/dev/null; then
    # Under sudo the caller's own toolchain serves as well as root's.
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
      [ -x "$home/.cargo/bin/cargo" ] || continue
      export PATH="$home/.cargo/bin:$PATH" RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}" CARGO_HOME="${CARGO_HOME:-$home/.cargo}"
      break
    done
  fi
  if ! command -v cargo >/dev/null; then
    setup_packages build
    setup_step "installing Rust through rustup" bash -c \
      "curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --no-modify-path --profile minimal --default-toolchain none"
    export PATH="$HOME/.cargo/bin:$PATH"
  fi
  # rust-toolchain.toml names the version; the first cargo call fetches it when it is missing.
  (cd "$setup_root" && setup_step "Rust $(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)" cargo --version)
}

# Cargo's own output is the progress: a first build takes minutes, and silence looks like a hang.
setup_binaries() {
  if [ -n "${WATTLE_BIN_DIR:-}" ]; then
    [ -x "$WATTLE_BIN_DIR/wattled" ] || setup_die "WATTLE_BIN_DIR is $WATTLE_BIN_DIR, but there is no wattled in it"
    return 0
  fi
  # Always the same crates: another choice would have cargo pick other features and build the dependencies again.
  setup_say "building the programs (release; the first time takes about ten minutes on two cores)"
  (cd "$setup_root" && cargo build --release --locked --bins \
    -p wattle-agent -p wattle-coordinator -p wattle-cli -p wattle-bench -p wattle-sim >&2) || setup_die "the build failed, see above"
  WATTLE_BIN_DIR=$(setup_target_dir)/release
  export WATTLE_BIN_DIR
}

# The binaries that tests run. The whole workspace at once, so that cargo picks the same features as for the unit tests
# and builds no dependency twice.
setup_debug_binaries() {
  if [ -n "${WATTLE_BIN_DIR:-}" ]; then
    setup_binaries
    return
  fi
  setup_say "building the binaries (development profile)"
  (cd "$setup_root" && cargo build --workspace --bins --locked >&2) || setup_die "the build failed, see above"
  WATTLE_BIN_DIR=$(setup_target_dir)/debug
  export WATTLE_BIN_DIR
}

setup_target_dir() {
  local dir=${CARGO_TARGET_DIR:-$setup_root/target}
  case $dir in /*) echo "$dir" ;; *) echo "$setup_root/$dir" ;; esac
}

# What needs namespaces needs root, /dev/net/tun and a kernel that lets us make them.
setup_can_netns() {
  [ "$(id -u)" -eq 0 ] || { echo "not root"; return 1; }
  [ -c /dev/net/tun ] || { echo "no /dev/net/tun (modprobe tun)"; return 1; }
  local probe="wl-probe-$$"
  ip netns add "$probe" 2>/dev/null || { echo "the kernel refuses network namespaces"; return 1; }
  ip netns del "$probe"
}
