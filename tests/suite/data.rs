//! Images: the built-in ones, CIFAR-10's files, and fetching them.

use std::{
    fs,
    io::{BufRead, BufReader, Cursor, Write},
    net::TcpListener,
    path::Path,
    thread::JoinHandle,
};

use distill_core::Device;
use distill_host::{
    images::{
        Download,
        cifar10::{FILE_BYTES, FILES, builtin_test_images, read_test, records_from_png_rows},
        fetch_cifar10,
    },
    measure::evaluate,
    quickstart::builtin_teacher,
};

#[test]
fn builtin_images_are_the_ones_the_teacher_knows() {
    let images = builtin_test_images().unwrap();
    assert_eq!((images.labels.len(), images.pixels.len()), (1000, 1000 * 3072));
    assert_eq!(images.labels[..10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]);
    // A mirrored, transposed or shifted image, or one with swapped colours, would be recognised far less often.
    let evaluation = evaluate(&builtin_teacher().unwrap(), &images, 200, &Device::Cpu).unwrap();
    assert_eq!((evaluation.total, evaluation.predictions.len()), (200, 200));
    assert!(evaluation.correct >= 170, "{} of 200", evaluation.correct);
}

#[test]
fn test_files_of_another_length_or_with_foreign_labels_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = || format!("{:#}", read_test(folder.path()).unwrap_err());
    assert!(error().contains("distill data fetch cifar10"));
    let path = folder.path().join("test_batch.bin");
    fs::write(&path, vec![0; FILE_BYTES - 1]).unwrap();
    assert!(error().contains("30729999 bytes, expected 30730000"), "{}", error());
    let mut records = vec![0; FILE_BYTES];
    records[3073 * 17] = 10;
    fs::write(&path, &records).unwrap();
    assert!(error().contains("image 17 has label 10, there are 10 classes"), "{}", error());
    records[3073 * 17] = 9;
    fs::create_dir(folder.path().join("cifar-10-batches-bin")).unwrap();
    fs::write(folder.path().join("cifar-10-batches-bin/test_batch.bin"), &records).unwrap();
    assert_eq!(read_test(folder.path()).unwrap().labels[17], 9);
}

#[test]
fn rows_of_a_png_become_planes() {
    let value = |image: usize, channel: usize, pixel: usize| (image * 31 + channel * 87 + pixel * 7) as u8;
    let mut png = Cursor::new(Vec::new());
    let mut encoder = png::Encoder::new(&mut png, 1024, 10_000);
    encoder.set_color(png::ColorType::Rgb);
    let row = |image| (0..1024).flat_map(move |pixel| (0..3).map(move |channel| value(image, channel, pixel)));
    let rgb: Vec<u8> = (0..10_000).flat_map(row).collect();
    encoder.write_header().unwrap().write_image_data(&rgb).unwrap();
    let labels: Vec<u8> = (0..10_000).map(|image| (image % 10) as u8).collect();
    let records = records_from_png_rows(png.get_ref(), &labels).unwrap();
    assert_eq!(records.len(), FILE_BYTES);
    for image in [0, 1, 4321, 9999] {
        let record = &records[3073 * image..3073 * (image + 1)];
        assert_eq!(record[0], labels[image]);
        for (channel, pixel) in [(0, 0), (1, 33), (2, 1023)] {
            assert_eq!(record[1 + 1024 * channel + pixel], value(image, channel, pixel));
        }
    }
    assert!(records_from_png_rows(png.get_ref(), &labels[1..]).is_err());
    assert!(records_from_png_rows(&png.get_ref()[..1000], &labels).is_err());
}

/// A server that answers each request in turn with what `answer` says of its range's start; gives its address.
fn serve(answers: Vec<fn(Option<usize>) -> Vec<u8>>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/cifar.tar.gz", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        for answer in answers {
            let (mut connection, _) = listener.accept().unwrap();
            let mut start = None;
            for line in BufReader::new(&connection).lines().map(Result::unwrap).take_while(|line| !line.is_empty()) {
                if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
                    start = range.trim_end_matches('-').parse().ok();
                }
            }
            connection.write_all(&answer(start)).unwrap();
        }
    });
    (url, server)
}

fn download(url: &str, file: &Path) -> anyhow::Result<()> {
    Download::start(url, file)?.receive()
}

const CONTENT: &[u8] = b"the quick brown fox jumps over the lazy dog";

fn response(status: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[test]
fn a_download_that_broke_off_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file.part");
    let (url, server) = serve(vec![
        |start| {
            assert_eq!(start, None);
            response("200 OK", CONTENT.len(), &CONTENT[..10])
        },
        |start| {
            assert_eq!(start, Some(10));
            response("206 Partial Content", CONTENT.len() - 10, &CONTENT[10..])
        },
        |start| {
            assert_eq!(start, Some(CONTENT.len()));
            response("416 Range Not Satisfiable", 0, &[])
        },
    ]);
    let error = format!("{:#}", download(&url, &file).unwrap_err());
    assert!(error.contains("broke off: run the command again"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), CONTENT[..10]);
    for _ in 0..2 {
        download(&url, &file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), CONTENT);
    }
    server.join().unwrap();
}

#[test]
fn a_server_without_ranges_starts_anew_and_a_refusal_keeps_what_came() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file.part");
    fs::write(&file, "stale").unwrap();
    let (url, server) =
        serve(vec![|_| response("503 Service Unavailable", 0, &[]), |_| response("200 OK", CONTENT.len(), CONTENT)]);
    assert!(format!("{:#}", download(&url, &file).unwrap_err()).contains("503"));
    assert_eq!(fs::read(&file).unwrap(), b"stale");
    download(&url, &file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), CONTENT);
    server.join().unwrap();
}

#[test]
fn an_archive_that_is_not_cifar10_is_refused_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![|_| response("200 OK", CONTENT.len(), CONTENT)]);
    let error = format!("{:#}", fetch_cifar10(folder.path(), Some(&url)).unwrap_err());
    server.join().unwrap();
    // Of the content above, by sha256sum.
    assert!(error.contains("05c6e08f1d9fdafa03147fcb8f82f124c76d2f70e3d989dc8aadb5e7d7450bec"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the wrong archive stayed");
    let missing = fetch_cifar10(folder.path(), Some("no/such.tgz")).unwrap_err();
    assert!(format!("{missing:#}").contains("cannot read no/such.tgz"), "{missing:#}");
}

#[test]
fn files_that_are_there_and_whole_are_not_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    // sha256sum of ten zero bytes.
    let hash = "01d448afd928065458cf670b60f5a594d735af0172c8d67f22a81680132681ca";
    let sums: String = FILES.iter().map(|name| format!("{hash}  {name}\n")).collect();
    fs::write(folder.path().join("SHA256SUMS"), sums).unwrap();
    FILES.iter().for_each(|name| fs::write(folder.path().join(name), [0; 10]).unwrap());
    let fetched = fetch_cifar10(folder.path(), Some("no/such.tgz")).unwrap();
    assert_eq!((fetched.source, fetched.images), (None, 60_000));
    fs::write(folder.path().join(FILES[3]), [1; 10]).unwrap();
    assert!(fetch_cifar10(folder.path(), Some("no/such.tgz")).is_err(), "a changed file was taken for whole");
}
