#!/usr/bin/env bash
# Fetches the Apache Kafka that the tests run against and prints the folder of its jars.
#
#   tools/lib/kafka.sh            fetch if needed, print the folder on stdout (progress on stderr)
#   tools/lib/kafka.sh --version  print the version in integration/kafka/pom.xml
#
# The jars come from Maven Central into ${WATTLE_CACHE:-$HOME/.cache/wattle}/kafka-<version>; a second
# call costs nothing. Java, Maven and kcat are installed by apt when they are missing (root on Debian).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
pom=$root/integration/kafka/pom.xml
version=$(sed -n 's:.*<kafka\.version>\(.*\)</kafka\.version>.*:\1:p' "$pom")
tiered=$(sed -n 's:.*<kafka\.tiered\.version>\(.*\)</kafka\.tiered\.version>.*:\1:p' "$pom")
cache=${WATTLE_CACHE:-$HOME/.cache/wattle}/kafka-$version

say() { printf 'kafka: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Java and kcat are needed on every run, Maven only when something has to be fetched.
install_missing() {
    local packages=() name
    for name in "$@"; do
        case $name in
            java) command -v java >/dev/null || packages+=(openjdk-17-jre-headless) ;;
            mvn) command -v mvn >/dev/null || packages+=(maven) ;;
            kcat) command -v kcat >/dev/null || packages+=(kcat) ;;
        esac
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "please install ${packages[*]}: this is no Debian"
    [ "$(id -u)" -eq 0 ] || die "please run: sudo apt-get install -y ${packages[*]}"
    say "installing ${packages[*]}"
    apt-get -qq update >&2
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" >&2 ||
        die "apt-get could not install ${packages[*]}; see above"
}

# Copies into a folder of its own and renames it, so that a fetch cut short leaves nothing half there.
# A lock lets two runs at once fetch only once.
fetch() {
    [ -e "$cache/complete" ] && return 0
    install_missing mvn
    say "fetching Apache Kafka $version from Maven Central (45 MB, once) ..."
    rm -rf "$cache" "$cache.partial"
    mvn -B -q -f "$pom" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$cache.partial" >&2 ||
        die "Maven could not fetch Kafka $version; see above (is https://repo.maven.apache.org reachable?)"
    [ -e "$cache.partial/kafka_2.13-$version.jar" ] || die "Maven brought no kafka_2.13-$version.jar"
    touch "$cache.partial/complete"
    mv "$cache.partial" "$cache"
    say "Apache Kafka $version is in $cache"
}

# The plugin that plays remote storage in tests has a folder of its own: it is no part of the broker. It is of another
# version, whose clients have one class where the plugin looks for it and the broker's have not.
fetch_tiered() {
    local jar=kafka-storage-$tiered-test.jar class=org/apache/kafka/common/utils/LogContext
    [ -e "$cache/tiered/$jar" ] && [ -e "$cache/tiered/classes/$class.class" ] && return 0
    install_missing mvn
    say "fetching $jar from Maven Central (11 MB, once) ..."
    rm -rf "$cache/tiered" "$cache/tiered.partial"
    mvn -B -q -f "$pom" dependency:copy -Dartifact="org.apache.kafka:kafka-storage:$tiered:jar:test" \
        -DoutputDirectory="$cache/tiered.partial" >&2 || die "Maven could not fetch $jar; see above"
    mvn -B -q -f "$pom" dependency:unpack -Dartifact="org.apache.kafka:kafka-clients:$tiered" \
        -Dmdep.unpack.includes="$class*.class" -DoutputDirectory="$cache/tiered.partial/classes" >&2 ||
        die "Maven could not fetch kafka-clients-$tiered.jar; see above"
    [ -e "$cache/tiered.partial/$jar" ] || die "Maven brought no $jar"
    [ -e "$cache/tiered.partial/classes/$class.class" ] || die "Maven brought no $class"
    mv "$cache/tiered.partial" "$cache/tiered"
}

[ -n "$version" ] || die "no kafka.version in $pom"
case ${1:-} in
    --version) echo "$version"; exit 0 ;;
    "") ;;
    *) die "unknown argument $1; usage: tools/lib/kafka.sh [--version]" ;;
esac
install_missing java kcat
mkdir -p "$(dirname "$cache")"
exec 9>"$cache.lock"
flock 9
fetch
fetch_tiered
echo "$cache"
