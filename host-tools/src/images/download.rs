//! Downloads that resume where an earlier attempt stopped.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use distill_device::{Progress, say};
use ureq::{Agent, Body, http::StatusCode};

/// More than any file we download, so that a server cannot fill the disk.
const MAX_BYTES: u64 = 1 << 28;
const TIMEOUT: Duration = Duration::from_secs(10);
/// A server that sends less in a minute than this is cut off.
const LEAST_BYTES_A_MINUTE: u64 = 1 << 20;
const MINUTE: Duration = Duration::from_secs(60);

/// A download into a file, which requests only what the file does not have yet.
#[derive(Debug)]
pub struct Download<'a> {
    url: &'a str,
    file: &'a Path,
    /// Bytes of the file that are kept.
    start: u64,
    /// The rest of the file; `None` if it is complete.
    body: Option<Body>,
}

impl<'a> Download<'a> {
    /// Sends the request.
    ///
    /// # Errors
    /// The server does not answer within 10 seconds, or refuses.
    pub fn start(url: &'a str, file: &'a Path) -> Result<Self> {
        ensure!(!file.is_symlink(), "{} is a link, which must be removed first", file.display());
        let begun = fs::metadata(file).map_or(0, |file| file.len());
        let agent: Agent = Agent::config_builder()
            .timeout_connect(Some(TIMEOUT))
            .timeout_recv_response(Some(TIMEOUT))
            .timeout_per_read(Some(TIMEOUT))
            .http_status_as_error(false)
            .build()
            .into();
        let request = agent.get(url);
        let request = if begun > 0 { request.header("Range", format!("bytes={begun}-")) } else { request };
        let response = request.call().with_context(|| format!("cannot download {url}"))?;
        let (start, is_whole) = match response.status() {
            StatusCode::OK => (0, false),
            StatusCode::PARTIAL_CONTENT => (begun, false),
            // The file is complete: an earlier attempt stopped between download and use.
            StatusCode::RANGE_NOT_SATISFIABLE if begun > 0 => (begun, true),
            status => bail!("cannot download {url}: the server says {status}"),
        };
        Ok(Self { url, file, start, body: (!is_whole).then(|| response.into_body()) })
    }

    /// Downloads the rest of the file.
    ///
    /// # Errors
    /// The server stops sending or is too slow, or the file cannot be written. What has arrived is kept.
    pub fn receive(self) -> Result<()> {
        let Self { url, file, start, body: Some(body) } = self else { return Ok(()) };
        let cannot_write = || format!("cannot write {}", file.display());
        let broke_off = || format!("the download of {url} broke off: run the command again to resume it");
        let mut output = OpenOptions::new().create(true).append(true).open(file).with_context(cannot_write)?;
        output.set_len(start).with_context(cannot_write)?;
        say(&format!("downloading {url}"));
        let total = body.content_length().map(|rest| start + rest);
        let mut progress = Progress::new("downloading", total, "{bytes}/{total_bytes}, {bytes_per_sec}")?;
        let mut body = body.into_with_config().limit(MAX_BYTES).reader();
        let mut chunk = vec![0; 1 << 16];
        let mut done = start;
        let (mut minute, mut before) = (Instant::now(), done);
        loop {
            let length = body.read(&mut chunk).with_context(broke_off)?;
            if length == 0 {
                break;
            }
            output.write_all(&chunk[..length]).with_context(cannot_write)?;
            done += length as u64;
            progress.set(done);
            if minute.elapsed() >= MINUTE {
                ensure!(
                    done - before >= LEAST_BYTES_A_MINUTE,
                    "{url} sends too slowly: run the command again later to resume"
                );
                (minute, before) = (Instant::now(), done);
            }
        }
        output.sync_all().with_context(cannot_write)?;
        ensure!(total.is_none_or(|total| total == done), broke_off());
        Ok(())
    }
}
