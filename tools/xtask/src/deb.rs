//! Debian packages: a staged tree, its control files, and dpkg-deb.
//!
//! What a package holds is the table in [`Package`]; everything else about it lies in `packaging/deb/NAME`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::stage::{Kind, Stage};
use crate::{command, manual, repository};

/// Crates whose programs are packaged.
pub(crate) const CRATES: [&str; 3] = ["wattle-agent", "wattle-cli", "wattle-coordinator"];

const MAINTAINER: &str = "The Wattle developers <packages@wattle.invalid>";

/// What a package holds.
struct Package {
    name: &'static str,
    programs: &'static [&'static str],
    /// Below `packaging/`, and where it is installed.
    files: &'static [(&'static str, &'static str)],
    /// Whether the pages and completions of `wattle` belong to it.
    has_command_line: bool,
}

const PACKAGES: [Package; 2] = [
    Package {
        name: "wattle",
        programs: &["wattle", "wattled"],
        files: &[
            (
                "systemd/wattled.service",
                "usr/lib/systemd/system/wattled.service",
            ),
            ("sysusers/wattle.conf", "usr/lib/sysusers.d/wattle.conf"),
            ("tmpfiles/wattle.conf", "usr/lib/tmpfiles.d/wattle.conf"),
            ("config/wattled.toml", "etc/wattle/wattled.toml"),
            ("man/wattled.8", "usr/share/man/man8/wattled.8"),
            ("man/wattled.toml.5", "usr/share/man/man5/wattled.toml.5"),
        ],
        has_command_line: true,
    },
    Package {
        name: "wattle-coordinator",
        programs: &["wattle-coordinator"],
        files: &[
            (
                "systemd/wattle-coordinator.service",
                "usr/lib/systemd/system/wattle-coordinator.service",
            ),
            (
                "sysusers/wattle-coordinator.conf",
                "usr/lib/sysusers.d/wattle-coordinator.conf",
            ),
            (
                "tmpfiles/wattle-coordinator.conf",
                "usr/lib/tmpfiles.d/wattle-coordinator.conf",
            ),
            (
                "man/wattle-coordinator.8",
                "usr/share/man/man8/wattle-coordinator.8",
            ),
        ],
        has_command_line: false,
    },
];

/// Builds all packages from the programs in a directory; prints the path of each.
pub(crate) fn build_all(programs: &Path, output: &Path) -> Result<()> {
    fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;
    let builder = Builder::new(programs, output)?;
    for package in &PACKAGES {
        let deb = builder.build(package)?;
        println(&deb.display().to_string());
    }
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "the paths of the packages are this program's output"
)]
fn println(line: &str) {
    println!("{line}");
}

struct Builder<'a> {
    programs: &'a Path,
    output: &'a Path,
    architecture: String,
    /// Time of the last commit: the same source gives the same package.
    epoch: String,
}

impl<'a> Builder<'a> {
    fn new(programs: &'a Path, output: &'a Path) -> Result<Self> {
        let architecture = command::output(Command::new("dpkg").arg("--print-architecture"))?;
        Ok(Self {
            programs,
            output,
            architecture: architecture.trim().to_owned(),
            epoch: epoch(),
        })
    }

    fn build(&self, package: &Package) -> Result<PathBuf> {
        let stage = Stage::empty(repository().join("target/package").join(package.name))?;
        self.put_programs(&stage, package)?;
        self.put_files(&stage, package)?;
        if package.has_command_line {
            self.put_command_line(&stage)?;
        }
        self.put_documentation(&stage, package)?;
        self.put_control(&stage, package)?;
        self.pack(&stage, package)
    }

    fn put_programs(&self, stage: &Stage, package: &Package) -> Result<()> {
        for program in package.programs {
            let target = format!("usr/bin/{program}");
            stage.copy(&self.programs.join(program), &target, Kind::Program)?;
            stage.strip(&target)?;
        }
        Ok(())
    }

    fn put_files(&self, stage: &Stage, package: &Package) -> Result<()> {
        for (source, target) in package.files {
            stage.copy(
                &repository().join("packaging").join(source),
                target,
                Kind::Data,
            )?;
            if target.contains("/man/") {
                stage.compress(target)?;
            }
        }
        Ok(())
    }

    fn put_command_line(&self, stage: &Stage) -> Result<()> {
        let wattle = self.programs.join("wattle");
        let pages = stage.root().with_extension("pages");
        manual::pages(&wattle, &pages)?;
        for page in fs::read_dir(&pages)? {
            let page = page?;
            let target = format!("usr/share/man/man1/{}", page.file_name().to_string_lossy());
            stage.copy(&page.path(), &target, Kind::Data)?;
            stage.compress(&target)?;
        }
        fs::remove_dir_all(pages)?;
        let directories = [
            "usr/share/bash-completion/completions",
            "usr/share/zsh/vendor-completions",
            "usr/share/fish/vendor_completions.d",
        ];
        for ((shell, name), directory) in manual::SHELLS.into_iter().zip(directories) {
            let script = command::output(Command::new(&wattle).args(["completion", shell]))?;
            stage.write(
                &format!("{directory}/{name}"),
                script.as_bytes(),
                Kind::Data,
            )?;
        }
        Ok(())
    }

    fn put_documentation(&self, stage: &Stage, package: &Package) -> Result<()> {
        let directory = format!("usr/share/doc/{}", package.name);
        stage.write(
            &format!("{directory}/copyright"),
            copyright()?.as_bytes(),
            Kind::Data,
        )?;
        let changelog = format!("{directory}/changelog");
        stage.copy(&repository().join("CHANGELOG.md"), &changelog, Kind::Data)?;
        stage.compress(&changelog)
    }

    fn put_control(&self, stage: &Stage, package: &Package) -> Result<()> {
        let sums = checksums(stage)?;
        let conffiles: String = package
            .files
            .iter()
            .filter(|(_, to)| to.starts_with("etc/"))
            .map(|(_, to)| format!("/{to}\n"))
            .collect();
        let control = self.control(stage, package)?;
        stage.write("DEBIAN/control", control.as_bytes(), Kind::Data)?;
        stage.write("DEBIAN/md5sums", sums.as_bytes(), Kind::Data)?;
        if !conffiles.is_empty() {
            stage.write("DEBIAN/conffiles", conffiles.as_bytes(), Kind::Data)?;
        }
        for script in ["postinst", "prerm", "postrm"] {
            let source = packaging(package).join(script);
            stage.copy(&source, &format!("DEBIAN/{script}"), Kind::Program)?;
        }
        Ok(())
    }

    fn control(&self, stage: &Stage, package: &Package) -> Result<String> {
        let template = fs::read_to_string(packaging(package).join("control"))?;
        let fields = template.replace("${shlibs:Depends}", &self.libraries(stage, package)?);
        let bytes: u64 = stage
            .files()?
            .iter()
            .filter_map(|file| stage.root().join(file).metadata().ok())
            .map(|m| m.len())
            .sum();
        Ok(format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: {MAINTAINER}\nInstalled-Size: {}\n{fields}",
            package.name,
            env!("CARGO_PKG_VERSION"),
            self.architecture,
            bytes.div_ceil(1_024),
        ))
    }

    /// The packages, with their least versions, whose libraries the programs use.
    fn libraries(&self, stage: &Stage, package: &Package) -> Result<String> {
        // dpkg-shlibdeps wants to stand in a source package.
        let source = stage.root().with_extension("source");
        fs::create_dir_all(source.join("debian"))?;
        fs::write(
            source.join("debian/control"),
            format!(
                "Source: {0}\n\nPackage: {0}\nArchitecture: any\n",
                package.name
            ),
        )?;
        let mut shlibdeps = Command::new("dpkg-shlibdeps");
        shlibdeps.current_dir(&source).args(["-O", "--warnings=0"]);
        for program in package.programs {
            shlibdeps
                .arg("-e")
                .arg(stage.root().join("usr/bin").join(program));
        }
        let answer = command::output(&mut shlibdeps);
        fs::remove_dir_all(&source)?;
        let answer = answer?;
        let depends = answer
            .lines()
            .find_map(|line| line.strip_prefix("shlibs:Depends="));
        depends
            .map(str::to_owned)
            .context("dpkg-shlibdeps named no packages")
    }

    fn pack(&self, stage: &Stage, package: &Package) -> Result<PathBuf> {
        let file = format!(
            "{}_{}_{}.deb",
            package.name,
            env!("CARGO_PKG_VERSION"),
            self.architecture
        );
        let deb = self.output.join(file);
        let mut dpkg_deb = Command::new("dpkg-deb");
        dpkg_deb.env("SOURCE_DATE_EPOCH", &self.epoch);
        dpkg_deb
            .args(["--root-owner-group", "-Zxz", "--build"])
            .arg(stage.root())
            .arg(&deb);
        command::output(&mut dpkg_deb)?;
        Ok(deb)
    }
}

fn packaging(package: &Package) -> PathBuf {
    repository().join("packaging/deb").join(package.name)
}

fn epoch() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH");
    given.unwrap_or_else(|_| {
        let log = Command::new("git")
            .current_dir(repository())
            .args(["log", "-1", "--format=%ct"])
            .output();
        let time = log
            .ok()
            .map(|log| String::from_utf8_lossy(&log.stdout).trim().to_owned());
        time.filter(|time| !time.is_empty())
            .unwrap_or_else(|| "0".to_owned())
    })
}

fn copyright() -> Result<String> {
    let mit =
        fs::read_to_string(repository().join("LICENSE-MIT")).context("cannot read LICENSE-MIT")?;
    let body: String = mit
        .lines()
        .map(|line| {
            if line.is_empty() {
                " .\n".to_owned()
            } else {
                format!(" {line}\n")
            }
        })
        .collect();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: wattle\n\nFiles: *\nCopyright: The Wattle developers\nLicense: Apache-2.0 or Expat\n\n\
         License: Apache-2.0\n See /usr/share/common-licenses/Apache-2.0.\n\nLicense: Expat\n{body}"
    ))
}

fn checksums(stage: &Stage) -> Result<String> {
    let files = stage.files()?;
    let mut md5sum = Command::new("md5sum");
    command::output(md5sum.current_dir(stage.root()).args(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_a_package_names_is_in_the_repository() {
        for package in &PACKAGES {
            for (source, _) in package.files {
                assert!(
                    repository().join("packaging").join(source).is_file(),
                    "{source}"
                );
            }
            for script in ["control", "postinst", "prerm", "postrm"] {
                assert!(
                    packaging(package).join(script).is_file(),
                    "{} {script}",
                    package.name
                );
            }
        }
    }

    #[test]
    fn no_two_packages_install_the_same_file() {
        let mut seen = std::collections::BTreeSet::new();
        for target in PACKAGES
            .iter()
            .flat_map(|package| package.files)
            .map(|(_, target)| target)
        {
            assert!(seen.insert(target), "{target}");
        }
    }

    #[test]
    fn the_agents_configuration_is_kept_over_upgrades() {
        assert!(
            PACKAGES[0]
                .files
                .iter()
                .any(|(_, target)| *target == "etc/wattle/wattled.toml")
        );
    }
}
