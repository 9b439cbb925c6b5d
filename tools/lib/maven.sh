# Programs that tests run against and that come as jars from Maven Central: sourced, never run.
#
#   say TEXT, die TEXT                      a line on stderr behind the word in $who; the end
#   install_missing java|mvn|kcat...        what is not there yet, by apt (root on Debian)
#   fetch_jars POM FOLDER JAR WHAT          what a pom names and all it needs, once, into a folder; JAR must be among it

say() { printf '%s: %s\n' "$who" "$*" >&2; }
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
fetch_jars() {
    local pom=$1 folder=$2 jar=$3 what=$4
    [ -e "$folder/complete" ] && return 0
    install_missing mvn
    say "fetching $what from Maven Central, once ..."
    rm -rf "$folder" "$folder.partial"
    mvn -B -q -f "$pom" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$folder.partial" >&2 ||
        die "Maven could not fetch $what; see above (is https://repo.maven.apache.org reachable?)"
    [ -e "$folder.partial/$jar" ] || die "Maven brought no $jar"
    touch "$folder.partial/complete"
    mv "$folder.partial" "$folder"
    say "$what is in $folder"
}
