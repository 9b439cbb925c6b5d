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
who=kafka
. "$root/tools/lib/maven.sh"

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

# A server that begins with classes that are parsed already is there in half the time. Java writes them when it ends; it
# reads them only with the same jars, and does without where it cannot.
archive() {
    local made=$cache/classes.jsa try port server
    [ ! -e "$made" ] || return 0
    say "starting Kafka once to keep its parsed classes (50 MB) ..."
    try=$(mktemp -d)
    for port in $((20000 + RANDOM % 10000)) $((20000 + RANDOM % 10000)) $((20000 + RANDOM % 10000)); do
        rm -rf "$try/data"
        cat >"$try/properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
log.dir=$try/data
offsets.topic.replication.factor=1
END
        local java=(java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn)
        "${java[@]}" -cp "$cache/*" kafka.tools.StorageTool format --standalone -t d2F0dGxlLXdhdHRsZS13dA \
            -c "$try/properties" >"$try/log" 2>&1 || break
        "${java[@]}" -XX:ArchiveClassesAtExit="$try/classes.jsa" -cp "$cache/*" kafka.Kafka "$try/properties" >"$try/log" 2>&1 9>&- &
        server=$!
        for _ in {1..120}; do
            kill -0 "$server" 2>/dev/null || break
            if kcat -b "127.0.0.1:$port" -L -m 2 >/dev/null 2>&1; then break; fi
            sleep 0.5
        done
        kill -TERM "$server" 2>/dev/null || true
        for _ in {1..120}; do
            kill -0 "$server" 2>/dev/null || break
            sleep 0.5
        done
        kill -KILL "$server" 2>/dev/null || true
        wait "$server" || true
        if [ -e "$try/classes.jsa" ]; then
            mv "$try/classes.jsa" "$made"
            break
        fi
    done
    [ -e "$made" ] || say "Kafka's classes could not be kept, so servers start slower: $(tail -1 "$try/log")"
    rm -rf "$try"
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
# A lock lets two runs at once fetch only once.
flock 9
fetch_jars "$pom" "$cache" "kafka_2.13-$version.jar" "Apache Kafka $version (45 MB)"
fetch_tiered
archive
echo "$cache"
