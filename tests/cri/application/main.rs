//! What pods run: `serve ADDRESS TEXT`, `get ADDRESS`, or nothing, which waits.
#![forbid(unsafe_code)]

use std::{
    env,
    error::Error,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve", address, text] => serve(address.parse()?, text)?,
        ["get", address] => println!("{}", get(address.parse()?)?),
        _ => loop {
            thread::park();
        },
    }
    Ok(())
}

/// Says `text` to whoever has said something.
fn serve(address: SocketAddr, text: &str) -> std::io::Result<()> {
    for connection in TcpListener::bind(address)?.incoming() {
        let mut connection = connection?;
        let text = text.to_owned();
        thread::spawn(move || {
            let said = connection.read(&mut [0; 64]).and_then(|_| connection.write_all(text.as_bytes()));
            if let Err(error) = said {
                eprintln!("a connection: {error}");
            }
        });
    }
    Ok(())
}

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(b"what?")?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(text)
}
