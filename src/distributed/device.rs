//! Which way gradients are added up: by the devices among themselves, or in the memory of their machines.

use serde::{Deserialize, Serialize};

use super::{Collective, all_gather, broadcast_any};
use crate::backend::{Executor, Partner};
use crate::tensor::TensorId;
use crate::{Error, Result};

/// Which way gradients of several ranks are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduce {
    /// By NCCL where every rank has it and a card of its own, else in the memory of their machines.
    #[default]
    Auto,
    /// In the memory of their machines.
    Host,
    /// By NCCL.
    Nccl,
}

/// The way that a group's gradients go; the same for all of its ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    on_device: bool,
    how: Option<String>,
}

/// What a rank says of its device: the partner it is, or why it is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Offer {
    Partner(Partner),
    /// Its device might, but something is missing.
    Lacks(String),
    /// Its device goes through the memory of its machine, always.
    Never,
}

impl Sums {
    /// In the memory of the machines.
    pub fn in_host_memory() -> Self {
        Sums { on_device: false, how: None }
    }
    /// How, for people; `None` where there was no other way.
    pub fn how(&self) -> Option<&str> {
        self.how.as_deref()
    }

    /// Finds the way that all ranks can go, and joins their devices where it is theirs.
    ///
    /// # Errors
    /// When NCCL is asked for and cannot be had (the sentence says which rank lacks what), fails, or a rank has ended.
    pub fn join(group: &mut dyn Collective, exec: &mut dyn Executor, wish: Reduce) -> Result<Self> {
        if group.ranks() == 1 {
            return Ok(Self::in_host_memory());
        }
        if wish == Reduce::Host {
            return Ok(Sums { on_device: false, how: Some("added up in host memory, as reduce says".into()) });
        }
        let mine = match exec.device_sums().map(|sums| sums.partner()) {
            Some(Ok(partner)) => Offer::Partner(partner),
            Some(Err(why)) => Offer::Lacks(why.to_string()),
            None => Offer::Never,
        };
        let offers = exchange(group, &mine)?;
        let library = match (agree(&offers), wish) {
            (Ok(library), _) => library,
            (Err(why), Reduce::Nccl) => {
                return Err(Error::ranks(format!("reduce is nccl, but {why}; put it right, or use reduce = \"host\"")));
            }
            (Err(why), _) => {
                let worth_telling = !offers.iter().all(|offer| *offer == Offer::Never);
                let how = worth_telling.then(|| format!("added up in host memory, since {why}"));
                return Ok(Sums { on_device: false, how });
            }
        };
        let sums = exec.device_sums().ok_or_else(|| Error::plan("a device that makes sums over ranks makes none"))?;
        let mut id = if group.rank() == 0 { sums.new_group()? } else { vec![] };
        broadcast_any(group, &mut id)?;
        let (rank, ranks) = (group.rank(), group.ranks());
        sums.join(&id, rank, ranks, &mut || group.check())?;
        Ok(Sums { on_device: true, how: Some(format!("added up by {library}")) })
    }

    /// Replaces tensors by their sums over all ranks.
    ///
    /// # Errors
    /// When a rank has ended (the sentence names it), or the device fails.
    pub fn sum(&self, group: &mut dyn Collective, exec: &mut dyn Executor, ids: &[TensorId]) -> Result<()> {
        if self.on_device { exec.sum_on_device(ids, &mut || group.check()) } else { group.sum_tensors(exec, ids) }
    }
}

/// What all ranks say, at the length of the longest.
fn exchange(group: &mut dyn Collective, mine: &Offer) -> Result<Vec<Offer>> {
    let unreadable = |e| Error::ranks(format!("what a rank says of its device is not readable: {e}"));
    let mut words = serde_json::to_vec(mine).map_err(unreadable)?;
    let lengths = all_gather(group, &(words.len() as u32).to_le_bytes())?;
    let longest = lengths.iter().filter_map(|length| Some(u32::from_le_bytes(length.first_chunk().copied()?))).max();
    words.resize(longest.map_or(words.len(), |longest| longest as usize), b' ');
    all_gather(group, &words)?.iter().map(|words| serde_json::from_slice(words).map_err(unreadable)).collect()
}

/// The library of all ranks, or why there is none for all.
fn agree(offers: &[Offer]) -> Result<String, String> {
    let mut partners: Vec<&Partner> = vec![];
    for (rank, offer) in offers.iter().enumerate() {
        match offer {
            Offer::Partner(partner) => partners.push(partner),
            Offer::Lacks(why) => return Err(format!("rank {rank} has none: {why}")),
            Offer::Never => return Err(format!("the device of rank {rank} is no NVIDIA card (--device cuda)")),
        }
    }
    for (rank, partner) in partners.iter().enumerate() {
        if partner.library != partners[0].library {
            let (first, other) = (&partners[0].library, &partner.library);
            return Err(format!("rank 0 has {first} and rank {rank} has {other}, which must be the same"));
        }
        if let Some(other) = partners[..rank].iter().position(|other| other.card == partner.card) {
            return Err(format!("ranks {other} and {rank} are on the same card, and each needs one of its own"));
        }
    }
    partners.first().map(|partner| partner.library.clone()).ok_or_else(|| "there is no rank".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partner(library: &str, card: u8) -> Offer {
        Offer::Partner(Partner { library: library.into(), card: vec![card; 16] })
    }

    #[test]
    fn the_way_that_all_can_go() {
        assert_eq!(agree(&[partner("NCCL 2.20.5", 1), partner("NCCL 2.20.5", 2)]), Ok("NCCL 2.20.5".into()));
        for (other, part) in [
            (partner("NCCL 2.20.5", 1), "ranks 0 and 1 are on the same card"),
            (partner("NCCL 2.21.5", 2), "rank 0 has NCCL 2.20.5 and rank 1 has NCCL 2.21.5"),
            (Offer::Lacks("it is lost".into()), "rank 1 has none: it is lost"),
            (Offer::Never, "the device of rank 1 is no NVIDIA card"),
        ] {
            let why = agree(&[partner("NCCL 2.20.5", 1), other]).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
