//! What the environment says about this process: which rank it is, and how the ranks meet.

use super::tcp::{Meeting, Tcp};
use super::{Collective, Single};
use crate::{Error, Result};

/// Variables by which launchers of MPI tell number and count of their processes: Open MPI, MPICH and its kin, Slurm.
const MPI: [(&str, &str); 3] =
    [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"), ("PMIX_RANK", "SLURM_NTASKS")];
/// The same on one machine; the last is that of `torchrun` and its kin.
const LOCAL: [(&str, &str); 3] = [
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
];

/// How this process was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launch {
    /// Alone.
    Single,
    /// By `mpirun`, as one of so many.
    Mpi {
        /// Number of this process.
        rank: usize,
        /// Number of processes.
        ranks: usize,
    },
    /// By RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
    Tcp(Meeting),
}

impl Launch {
    /// Reads this process's environment.
    ///
    /// # Errors
    /// When variables are missing or contradict each other.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Reads variables; those of MPI win, since RANK and WORLD_SIZE can be left over from elsewhere under `mpirun`.
    ///
    /// # Errors
    /// When variables are missing or contradict each other.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        if let Some((rank, ranks)) = pair(&MPI, &get)? {
            return Ok(if ranks == 1 { Launch::Single } else { Launch::Mpi { rank, ranks } });
        }
        let Some(ranks) = number("WORLD_SIZE", &get)? else { return Ok(Launch::Single) };
        if ranks == 1 {
            return Ok(Launch::Single);
        }
        let missing = |name: &str| {
            Error::ranks(format!(
                "WORLD_SIZE is {ranks}, but {name} is not set; each rank needs RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            ))
        };
        let rank = number("RANK", &get)?.ok_or_else(|| missing("RANK"))?;
        check(rank, ranks, "RANK", "WORLD_SIZE")?;
        let address = get("MASTER_ADDR").filter(|text| !text.is_empty()).ok_or_else(|| missing("MASTER_ADDR"))?;
        let port = number("MASTER_PORT", &get)?.ok_or_else(|| missing("MASTER_PORT"))?;
        let port = u16::try_from(port).ok().filter(|&port| port > 0);
        let port = port.ok_or_else(|| Error::ranks("MASTER_PORT must be a number from 1 to 65535"))?;
        Ok(Launch::Tcp(Meeting { rank, ranks, address, port }))
    }

    /// Number of this process.
    pub fn rank(&self) -> usize {
        match self {
            Launch::Single => 0,
            Launch::Mpi { rank, .. } => *rank,
            Launch::Tcp(meeting) => meeting.rank,
        }
    }

    /// Waits for the other ranks.
    ///
    /// # Errors
    /// When they do not come, or this build has no MPI.
    pub fn start(&self) -> Result<Box<dyn Collective>> {
        match self {
            Launch::Single => Ok(Box::new(Single)),
            Launch::Tcp(meeting) => Ok(Box::new(Tcp::meet(meeting)?)),
            #[cfg(feature = "mpi")]
            Launch::Mpi { .. } => Ok(Box::new(super::mpi::Mpi::start()?)),
            #[cfg(not(feature = "mpi"))]
            Launch::Mpi { ranks, .. } => Err(Error::ranks(format!(
                "mpirun started {ranks} ranks, but this xlnet was built without MPI; build it with --features mpi, or \
                 start the ranks by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            ))),
        }
    }
}

/// Which process of this machine this is, and how many there are; (0, 1) where no launcher tells.
///
/// # Errors
/// When variables are no numbers.
pub fn local() -> Result<(usize, usize)> {
    Ok(pair(&LOCAL, &|name| std::env::var(name).ok())?.unwrap_or((0, 1)))
}

fn pair(names: &[(&str, &str)], get: &impl Fn(&str) -> Option<String>) -> Result<Option<(usize, usize)>> {
    for (rank_name, size_name) in names {
        if let (Some(rank), Some(size)) = (number(rank_name, get)?, number(size_name, get)?) {
            check(rank, size, rank_name, size_name)?;
            return Ok(Some((rank, size)));
        }
    }
    Ok(None)
}

fn number(name: &str, get: &impl Fn(&str) -> Option<String>) -> Result<Option<usize>> {
    let Some(text) = get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = text.trim().parse();
    number.map(Some).map_err(|_| Error::ranks(format!("the variable {name} must be a whole number, but is {text:?}")))
}

fn check(rank: usize, ranks: usize, rank_name: &str, size_name: &str) -> Result<()> {
    if rank < ranks {
        return Ok(());
    }
    Err(Error::ranks(format!("{rank_name} must be below {size_name}, which is {ranks}, but is {rank}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Result<Launch> {
        Launch::from_variables(|name| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned()))
    }

    #[test]
    fn variables() {
        let four = [("RANK", "2"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "node0"), ("MASTER_PORT", "29500")];
        let meeting = Meeting { rank: 2, ranks: 4, address: "node0".into(), port: 29500 };
        assert_eq!(launch(&four).unwrap(), Launch::Tcp(meeting));
        assert_eq!(launch(&[]).unwrap(), Launch::Single);
        assert_eq!(launch(&[("WORLD_SIZE", "1"), ("RANK", "0")]).unwrap(), Launch::Single);
        assert_eq!(launch(&[("RANK", "3")]).unwrap(), Launch::Single);
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("WORLD_SIZE", "9")];
        assert_eq!(launch(&open_mpi).unwrap(), Launch::Mpi { rank: 1, ranks: 2 });
        assert_eq!(launch(&[("PMI_RANK", "0"), ("PMI_SIZE", "1")]).unwrap(), Launch::Single);
    }

    #[test]
    fn what_is_missing_is_named() {
        let four = [("RANK", "2"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "node0"), ("MASTER_PORT", "29500")];
        for absent in ["RANK", "MASTER_ADDR", "MASTER_PORT"] {
            let rest: Vec<_> = four.iter().copied().filter(|v| v.0 != absent).collect();
            let sentence = launch(&rest).unwrap_err().to_string();
            assert!(sentence.contains(&format!("{absent} is not set")), "{sentence}");
        }
        let says = |name, value| {
            let changed: Vec<_> = four.iter().map(|v| if v.0 == name { (name, value) } else { *v }).collect();
            launch(&changed).unwrap_err().to_string()
        };
        assert!(says("RANK", "4").contains("RANK must be below WORLD_SIZE, which is 4, but is 4"));
        assert!(says("WORLD_SIZE", "four").contains("\"four\""));
        assert!(says("MASTER_PORT", "70000").contains("1 to 65535"));
    }
}
