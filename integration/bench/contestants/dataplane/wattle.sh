# Wattle in the data-plane bench: an offline network of two nodes, or of three in a chain where b relays for a and c.
# Binaries: WATTLE_BIN_DIR, else target/release. A chain's inner packets leave room for the relay header.
. "$BENCH/lib.sh"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${WATTLE_BIN_DIR:-${CARGO_TARGET_DIR:-$here/../../../../target}/release}
version() { "$bin/wattled" --version; }
node() { # SIDE ADDRESS ENDPOINTS NEIGHBOURS
  printf '[[node]]\nname = "%s"\naddresses = ["%s"]\nendpoints = [%s]\nneighbours = [%s]\ninterface = "pf%s"\n' "$1" "$2" "$3" "$4" "$1"
}
up() {
  local side most=1382
  {
    printf '[network]\nname = "bench"\n'
    if [ "$TOPO" = chain ]; then
      node a "$OV_a" "\"$UL_ab:51820\"" '"b"'
      node b "$OV_b" "\"$UL_ba:51820\", \"$UL_bc:51820\"" '"a", "c"'
      node c "$OV_c" "\"$UL_cb:51820\"" '"b"'
    else
      node a "$OV_a" "\"$UL_a:51820\"" '"b"'
      node b "$OV_b" "\"$UL_b:51820\"" '"a"'
      most=1420
    fi
  } >"$WORK/nodes.toml"
  "$bin/wattle" network create --offline "$WORK/network" --nodes "$WORK/nodes.toml" || return 1
  for side in $(sides); do
    sed -i '/^mtu *=/d' "$WORK/network/$side/wattled.toml"
    echo "mtu = $((${MTU:-1420} < most ? ${MTU:-1420} : most))" >>"$WORK/network/$side/wattled.toml"
    daemon "$side" "$bin/wattled" --state "$WORK/network/$side" --socket "$WORK/$side.sock"
    waitif "$side" "pf$side"
  done
}
main "$@"
