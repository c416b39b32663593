//! Capture files, frame by frame.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result};

use super::capture::{Capture, Frame};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Frames between two reports of how far it is.
const FRAMES: u64 = 4096;

/// Gives each frame of a file to `take`, until one is refused; `-` is standard input. Now and then `progress` is
/// told how many bytes were read of how many, 0 where nobody knows.
///
/// # Errors
/// It cannot be opened or read, is not a capture, or `take` refused a frame.
pub fn read(
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
    take: &mut dyn FnMut(&Frame<'_>) -> Result<()>,
) -> Result<()> {
    let (source, length) = open(path)?;
    let (source, read) = Counting::new(source);
    let mut capture = Capture::new(BufReader::with_capacity(CHUNK, source))?;
    let mut frames = 0u64;
    while let Some(frame) = capture.next_frame()? {
        take(&frame)?;
        frames += 1;
        if frames.is_multiple_of(FRAMES) {
            progress(read.load(Relaxed), length);
        }
    }
    Ok(())
}

/// The file and its length; `-` is standard input, whose length nobody knows.
fn open(path: &Path) -> Result<(Box<dyn Read>, u64)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), 0));
    }
    let file = File::open(path).context("cannot be opened")?;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    Ok((Box::new(file), length))
}

/// Counts what is read through it.
struct Counting<R> {
    source: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Counting<R> {
    fn new(source: R) -> (Self, Arc<AtomicU64>) {
        let read = Arc::new(AtomicU64::new(0));
        (Counting { source, read: Arc::clone(&read) }, read)
    }
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.read.fetch_add(length as u64, Relaxed);
        Ok(length)
    }
}
