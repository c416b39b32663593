"""A BitTorrent peer that speaks uTP alone, with libtorrent.

peer.py seed TORRENT DIRECTORY LISTEN TRACKER   makes a torrent of DIRECTORY/file and offers it
peer.py fetch TORRENT DIRECTORY LISTEN NODE     fetches it, and asks NODE (host:port) for others by the DHT

LISTEN is as libtorrent's setting `listen_interfaces` has it.
"""

import sys
import time

import libtorrent

mode, torrent, directory, listen, other = sys.argv[1:]

if mode == "seed":
    files = libtorrent.file_storage()
    libtorrent.add_files(files, directory + "/file")
    made = libtorrent.create_torrent(files)
    made.add_tracker(other)
    libtorrent.set_piece_hashes(made, directory)
    with open(torrent, "wb") as out:
        out.write(libtorrent.bencode(made.generate()))

session = libtorrent.session({
    "listen_interfaces": listen,
    "enable_outgoing_tcp": False,
    "enable_incoming_tcp": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "dht_bootstrap_nodes": other if mode == "fetch" else "",
    # All clients have the address of one line.
    "allow_multiple_connections_per_ip": True,
    # On a busy machine a first connection may fail; the next one would be tried after a minute.
    "min_reconnect_time": 1,
})
wanted = libtorrent.add_torrent_params()
wanted.ti = libtorrent.torrent_info(torrent)
wanted.save_path = directory
handle = session.add_torrent(wanted)
print("ready", flush=True)

while mode == "seed" or not handle.status().is_seeding:
    print(handle.status().state, flush=True)
    time.sleep(0.2)
