#!/usr/bin/env bash
# Fetches the programs of others that read the topology from Kafka in tests, and prints the folder of their jars.
#
#   tools/lib/readers.sh          fetch if needed, print the folder on stdout (progress on stderr)
#
# What integration/kafka/readers names comes from Maven Central into ${WATTLE_CACHE:-$HOME/.cache/wattle}/readers-<digest>,
# each program in a folder of its own: they want different versions of the same libraries. A second call costs nothing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
poms=$root/integration/kafka/readers
cache=${WATTLE_CACHE:-$HOME/.cache/wattle}/readers-$(cat "$poms"/*.xml | sha256sum | cut -c 1-12)
who=readers
. "$root/tools/lib/maven.sh"

# The value of a property of a pom.
version() { sed -n "s:.*<$2>\(.*\)</$2>.*:\1:p" "$poms/$1.xml"; }

install_missing java
mkdir -p "$cache"
# A lock lets two runs at once fetch only once.
exec 9>"$cache.lock"
flock 9
flink=$(version flink flink.version) connect=$(version connect kafka.version) neo4j=$(version neo4j neo4j.version)
fetch_jars "$poms/connect.xml" "$cache/connect" "connect-runtime-$connect.jar" "Kafka Connect $connect (34 MB)"
fetch_jars "$poms/flink.xml" "$cache/flink" "flink-sql-client-$flink.jar" "Apache Flink $flink (206 MB)"
fetch_jars "$poms/neo4j.xml" "$cache/neo4j" "neo4j-server-$neo4j.jar" "Neo4j $neo4j (120 MB)"
echo "$cache"
