/* What a program on libnetfilter_queue does at least: for each packet one recv, a hash of the flow's addresses and
 * ports that chooses one of two marks, one verdict.
 *
 *     null QUEUE LENGTH
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <libnetfilter_queue/libnetfilter_queue.h>
#include <linux/netfilter.h>
#include <linux/netlink.h>

/* IPv4 without options: addresses, then ports. */
#define ADDRESSES 12
#define PORTS 20

static uint32_t mark_of(const uint8_t *packet, int length)
{
    uint32_t hash = 2166136261u;
    for (int place = ADDRESSES; place < PORTS + 4 && place < length; place++)
        hash = (hash ^ packet[place]) * 16777619u;
    return 1 + ((hash ^ hash >> 15) & 1);
}

static int decide(struct nfq_q_handle *queue, struct nfgenmsg *message, struct nfq_data *data, void *unused)
{
    struct nfqnl_msg_packet_hdr *header = nfq_get_msg_packet_hdr(data);
    uint8_t *packet = NULL;
    int length = nfq_get_payload(data, &packet);
    (void)message;
    (void)unused;
    return nfq_set_verdict2(queue, ntohl(header->packet_id), NF_ACCEPT, mark_of(packet, length), 0, NULL);
}

static void need(int holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(1);
    }
}

int main(int count, char **arguments)
{
    static char buffer[65536] __attribute__((aligned));
    int number = count > 1 ? atoi(arguments[1]) : 0;
    int length = count > 2 ? atoi(arguments[2]) : 1024;
    int yes = 1;
    struct nfq_handle *handle = nfq_open();
    need(handle != NULL, "nfq_open");
    struct nfq_q_handle *queue = nfq_create_queue(handle, number, decide, NULL);
    need(queue != NULL, "nfq_create_queue");
    need(nfq_set_mode(queue, NFQNL_COPY_PACKET, 128) >= 0, "nfq_set_mode");
    need(nfq_set_queue_maxlen(queue, length) >= 0, "nfq_set_queue_maxlen");
    /* Else the socket holds 256 packets, whatever the queue does. */
    nfnl_rcvbufsiz(nfq_nfnlh(handle), 2048 * length);
    int socket = nfq_fd(handle);
    setsockopt(socket, SOL_NETLINK, NETLINK_NO_ENOBUFS, &yes, sizeof yes);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int received = recv(socket, buffer, sizeof buffer, 0);
        if (received < 0 && errno != EINTR)
            need(0, "recv");
        if (received > 0)
            nfq_handle_packet(handle, buffer, received);
    }
}
