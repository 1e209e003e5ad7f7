// SPDX-License-Identifier: GPL-2.0
/*
 * rdma NODE TEXT: registers a mapping of the node with the first device of RDMA there is
 * (ibv_reg_mr), has the device write the text to it from other memory, and says so.
 * Holds the registration until its standard input ends, and ends with that. The exit status
 * is 3, and the errno is printed, if the mapping cannot be registered.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <stdio.h>

#include <rpmem.h>

#define LEN	(2UL << 20)
#define RIGHTS	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

static int failed(const char *what)
{
	perror(what);
	return 1;
}

/* A queue pair is connected with another one at the same address. */
static int join(struct ibv_qp *qp, const struct ibv_qp *with, const union ibv_gid *gid, int index)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = 1,
		.qp_access_flags = RIGHTS,
	};
	int r = ibv_modify_qp(qp, &attr,
			      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);

	if (r)
		return r;
	attr.qp_state = IBV_QPS_RTR;
	attr.path_mtu = IBV_MTU_1024;
	attr.dest_qp_num = with->qp_num;
	attr.max_dest_rd_atomic = 1;
	attr.min_rnr_timer = 12;
	attr.ah_attr.is_global = 1;
	attr.ah_attr.port_num = 1;
	attr.ah_attr.grh.dgid = *gid;
	attr.ah_attr.grh.sgid_index = (uint8_t)index;
	attr.ah_attr.grh.hop_limit = 1;
	r = ibv_modify_qp(qp, &attr,
			  IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
			  IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
	if (r)
		return r;
	attr.qp_state = IBV_QPS_RTS;
	attr.timeout = 14;
	attr.retry_cnt = 7;
	attr.rnr_retry = 7;
	attr.max_rd_atomic = 1;
	return ibv_modify_qp(qp, &attr,
			     IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
			     IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

/* The address of the device that is an IPv4 one. */
static int ipv4(struct ibv_context *device, union ibv_gid *gid)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	for (int i = 0; !ibv_query_gid(device, 1, i, gid); i++)
		if (!memcmp(gid->raw, mapped, sizeof(mapped)))
			return i;
	return -1;
}

static int send_to(struct ibv_context *device, struct ibv_pd *pd, const struct ibv_mr *to,
		   const char *text)
{
	static char from[4096];
	struct ibv_mr *mr = ibv_reg_mr(pd, from, sizeof(from), IBV_ACCESS_LOCAL_WRITE);
	struct ibv_cq *cq = ibv_create_cq(device, 4, NULL, NULL, 0);
	struct ibv_qp_init_attr init = {
		.send_cq = cq,
		.recv_cq = cq,
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};
	struct ibv_qp *a = mr && cq ? ibv_create_qp(pd, &init) : NULL;
	struct ibv_qp *b = a ? ibv_create_qp(pd, &init) : NULL;
	struct ibv_sge sge = { .addr = (uintptr_t)from, .length = (uint32_t)strlen(text) };
	struct ibv_send_wr *bad, write = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
	};
	union ibv_gid gid;
	struct ibv_wc done;
	int index = ipv4(device, &gid);
	int n;

	if (!b || index < 0)
		return failed("queue pairs");
	errno = join(a, b, &gid, index);
	if (!errno)
		errno = join(b, a, &gid, index);
	if (errno)
		return failed("ibv_modify_qp");
	strncpy(from, text, sizeof(from) - 1);
	sge.lkey = mr->lkey;
	write.wr.rdma.remote_addr = (uintptr_t)to->addr;
	write.wr.rdma.rkey = to->rkey;
	errno = ibv_post_send(a, &write, &bad);
	if (errno)
		return failed("ibv_post_send");
	while (!(n = ibv_poll_cq(cq, 1, &done)))
		;
	if (n < 0 || done.status != IBV_WC_SUCCESS) {
		fprintf(stderr, "the write: %s\n", ibv_wc_status_str(done.status));
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct ibv_device **devices = ibv_get_device_list(NULL);
	struct ibv_context *device = devices && *devices ? ibv_open_device(*devices) : NULL;
	struct ibv_pd *pd = device ? ibv_alloc_pd(device) : NULL;
	int fd = argc == 3 ? open(argv[1], O_RDWR) : -1;
	struct ibv_mr *mr;
	void *map;

	if (!pd || fd < 0)
		return failed(pd ? argv[0] : "no device of RDMA");
	map = rpmem_mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0,
			 NULL);
	if (map == MAP_FAILED)
		return failed("mmap");
	mr = ibv_reg_mr(pd, map, LEN, RIGHTS);
	if (!mr) {
		printf("not registered: %s\n", strerror(errno));
		return 3;
	}
	if (send_to(device, pd, mr, argv[2]))
		return 1;
	puts("written");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
