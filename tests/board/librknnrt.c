/* A stand-in for Rockchip's librknnrt.so: the C calls of RKNNLite, answered without an NPU.
 *
 * Networks are run by npu.py, a process outside of the emulated board, over the Unix socket
 * /run/npu.sock. This file keeps what a caller can observe of the vendor's library: return codes,
 * tensor attributes, input sizes checked with "less than" only, outputs that stay what they were
 * when a run fails, and its way of logging.
 *
 * NPU_FAULT in the environment makes it misbehave from the next call on:
 *   init:CODE core:CODE inputs:CODE run:CODE outputs:CODE   that call returns CODE
 *   run:CODE@N                                              the same after N good runs
 *   core:CODE%MASK run:CODE%MASK                            the same of contexts of that core mask
 *   nan inf constant                                        what the first output is filled with
 *   shape                                                   the first output claims one column less
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_PATH "/run/npu.sock"
#define MAX_TENSORS 16

/* The public ABI, as far as RKNNLite uses it. */
enum { SUCCESS = 0, FAIL = -1, DEVICE_UNAVAILABLE = -3, PARAM_INVALID = -5, MODEL_INVALID = -6 };
enum { QUERY_IN_OUT_NUM, QUERY_INPUT_ATTR, QUERY_OUTPUT_ATTR, QUERY_SDK_VERSION = 5 };
static const uint32_t TYPE_SIZES[] = {4, 2, 1, 1, 2, 2, 4, 4, 8, 1}; /* by rknn_tensor_type */

typedef uint64_t rknn_context;

typedef struct {
    uint32_t index, n_dims, dims[16];
    char name[256];
    uint32_t n_elems, size, fmt, type, qnt_type;
    int8_t fl;
    int32_t zp;
    float scale;
    uint32_t w_stride, size_with_stride;
    uint8_t pass_through;
    uint32_t h_stride;
} rknn_tensor_attr;

typedef struct {
    uint32_t n_input, n_output;
} rknn_input_output_num;

typedef struct {
    char api_version[256], drv_version[256];
} rknn_sdk_version;

typedef struct {
    uint32_t index;
    void *buf;
    uint32_t size;
    uint8_t pass_through;
    uint32_t type, fmt;
} rknn_input;

typedef struct {
    uint8_t want_float, is_prealloc;
    uint32_t index;
    void *buf;
    uint32_t size;
} rknn_output;

_Static_assert(sizeof(rknn_tensor_attr) == 376, "npu.py sends this very structure");

typedef struct {
    int socket;
    rknn_input_output_num count;
    rknn_tensor_attr inputs[MAX_TENSORS], outputs[MAX_TENSORS];
    rknn_input set[MAX_TENSORS];
    float *results[MAX_TENSORS];
    long runs;
    int mask;
} Network;

/* What `doctor` looks for in the file. */
const char version_string[] = "librknnrt version: 2.5.0 (stand-in of the lcmcore tests)";

static void log_error(const char *text) { fprintf(stderr, "E RKNN: %s\n", text); }

/* The code that NPU_FAULT wants of this call, or 0. */
static int fault(const char *call, long runs, int mask) {
    const char *wanted = getenv("NPU_FAULT");
    size_t length = strlen(call);
    if (!wanted || strncmp(wanted, call, length) || wanted[length] != ':') return SUCCESS;
    char *rest;
    int code = (int)strtol(wanted + length + 1, &rest, 10);
    if (*rest == '@' && runs < strtol(rest + 1, NULL, 10)) return SUCCESS;
    return *rest == '%' && mask != strtol(rest + 1, NULL, 10) ? SUCCESS : code;
}

static int fault_is(const char *name) {
    const char *wanted = getenv("NPU_FAULT");
    return wanted && !strcmp(wanted, name);
}

static int send_all(int socket, const void *data, size_t size) {
    for (const char *at = data; size;) {
        ssize_t sent = send(socket, at, size, MSG_NOSIGNAL);
        if (sent <= 0) return -1;
        at += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static int receive_all(int socket, void *data, size_t size) {
    for (char *at = data; size;) {
        ssize_t got = recv(socket, at, size, 0);
        if (got <= 0) return -1;
        at += got;
        size -= (size_t)got;
    }
    return 0;
}

static int connect_npu(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_PATH};
    int npu = socket(AF_UNIX, SOCK_STREAM, 0);
    if (npu >= 0 && connect(npu, (struct sockaddr *)&address, sizeof address)) {
        close(npu);
        return -1;
    }
    return npu;
}

static int open_model(Network *network, const void *model, uint32_t size) {
    int32_t status;
    if (send_all(network->socket, &size, sizeof size) ||
        send_all(network->socket, model, size) ||
        receive_all(network->socket, &status, sizeof status))
        return DEVICE_UNAVAILABLE;
    if (status) return status;
    rknn_input_output_num *count = &network->count;
    if (receive_all(network->socket, count, sizeof *count) || count->n_input > MAX_TENSORS ||
        count->n_output > MAX_TENSORS ||
        receive_all(network->socket, network->inputs, count->n_input * sizeof *network->inputs) ||
        receive_all(network->socket, network->outputs, count->n_output * sizeof *network->outputs))
        return DEVICE_UNAVAILABLE;
    for (uint32_t i = 0; i < count->n_output; i++)
        network->results[i] = calloc(network->outputs[i].n_elems, sizeof(float));
    return SUCCESS;
}

int rknn_destroy(rknn_context context) {
    Network *network = (Network *)context;
    close(network->socket);
    for (int i = 0; i < MAX_TENSORS; i++) {
        free(network->set[i].buf);
        free(network->results[i]);
    }
    free(network);
    return SUCCESS;
}

int rknn_init(rknn_context *context, void *model, uint32_t size, uint32_t flag, void *extend) {
    (void)flag, (void)extend;
    int code = fault("init", 0, 0);
    if (code) return code;
    Network *network = calloc(1, sizeof *network);
    network->socket = connect_npu();
    code = network->socket < 0 ? DEVICE_UNAVAILABLE : open_model(network, model, size);
    if (code) {
        log_error("rknn_init, load model failed!");
        rknn_destroy((rknn_context)network);
        return code;
    }
    *context = (rknn_context)network;
    return SUCCESS;
}

int rknn_set_core_mask(rknn_context context, int mask) {
    ((Network *)context)->mask = mask;
    int code = fault("core", 0, mask);
    return code ? code : (mask != 0xffff && (mask < 0 || mask > 7 || mask == 5 || mask == 6)) ? PARAM_INVALID : SUCCESS;
}

static int query_attr(const rknn_tensor_attr *attrs, uint32_t count, rknn_tensor_attr *info) {
    if (info->index >= count) return PARAM_INVALID;
    *info = attrs[info->index];
    return SUCCESS;
}

/* The attribute of an output of which one column was lost. */
static void shrink(rknn_tensor_attr *attr) {
    uint32_t *last = &attr->dims[attr->n_dims - 1];
    attr->n_elems = attr->n_elems / *last * (*last - 1);
    *last -= 1;
    attr->size = attr->n_elems * TYPE_SIZES[attr->type];
}

int rknn_query(rknn_context context, int query, void *info, uint32_t size) {
    const Network *network = (const Network *)context;
    if (query == QUERY_IN_OUT_NUM && size >= sizeof(rknn_input_output_num)) {
        memcpy(info, &network->count, sizeof network->count);
        return SUCCESS;
    }
    if (query == QUERY_INPUT_ATTR && size >= sizeof(rknn_tensor_attr))
        return query_attr(network->inputs, network->count.n_input, info);
    if (query == QUERY_OUTPUT_ATTR && size >= sizeof(rknn_tensor_attr)) {
        int code = query_attr(network->outputs, network->count.n_output, info);
        if (!code && ((rknn_tensor_attr *)info)->index == 0 && fault_is("shape")) shrink(info);
        return code;
    }
    if (query == QUERY_SDK_VERSION && size >= sizeof(rknn_sdk_version)) {
        rknn_sdk_version *version = info;
        strcpy(version->api_version, "2.5.0 (stand-in)");
        strcpy(version->drv_version, "0.9.8");
        return SUCCESS;
    }
    return MODEL_INVALID; /* as for the dynamic range (13) of a model of static shapes */
}

#ifndef BEFORE_DYNAMIC_SHAPES /* RKNNLite looks this one up, and does not survive its absence */
int rknn_set_input_shapes(rknn_context context, uint32_t count, rknn_tensor_attr attrs[]) {
    (void)context, (void)count, (void)attrs;
    return MODEL_INVALID;
}
#endif

int rknn_inputs_set(rknn_context context, uint32_t count, rknn_input inputs[]) {
    Network *network = (Network *)context;
    int code = fault("inputs", 0, network->mask);
    if (code) return code;
    if (count != network->count.n_input) return PARAM_INVALID;
    for (uint32_t i = 0; i < count; i++) {
        const rknn_input *given = &inputs[i];
        if (given->index >= count || given->type >= sizeof TYPE_SIZES / sizeof *TYPE_SIZES)
            return PARAM_INVALID;
        uint32_t wanted = network->inputs[given->index].n_elems * TYPE_SIZES[given->type];
        if (given->size < wanted) {
            fprintf(stderr,
                    "E RKNN: rknn_inputs_set, param input size(%u) < model input size(%u)\n",
                    given->size, wanted);
            return PARAM_INVALID;
        }
        rknn_input *kept = &network->set[given->index];
        kept->buf = realloc(kept->buf, wanted);
        memcpy(kept->buf, given->buf, wanted); /* what is too much is passed over, as there */
        kept->size = wanted;
        kept->type = given->type;
        kept->fmt = given->fmt;
    }
    return SUCCESS;
}

int rknn_run(rknn_context context, void *extend) {
    (void)extend;
    Network *network = (Network *)context;
    int32_t code = fault("run", network->runs++, network->mask);
    if (code) {
        log_error("failed to submit!");
        return code;
    }
    for (uint32_t i = 0; i < network->count.n_input; i++) {
        const rknn_input *input = &network->set[i];
        uint32_t head[] = {input->type, input->fmt, input->size};
        if (send_all(network->socket, head, sizeof head) ||
            send_all(network->socket, input->buf, input->size))
            return FAIL;
    }
    if (receive_all(network->socket, &code, sizeof code)) return FAIL;
    for (uint32_t i = 0; !code && i < network->count.n_output; i++)
        if (receive_all(network->socket, network->results[i],
                        network->outputs[i].n_elems * sizeof(float)))
            code = FAIL;
    return code;
}

/* Overwrite an output with what NPU_FAULT asks for. */
static void spoil(float *values, uint32_t count) {
    float value = fault_is("nan") ? NAN : fault_is("inf") ? INFINITY : 0.5f;
    if (fault_is("nan") || fault_is("inf") || fault_is("constant"))
        for (uint32_t i = 0; i < count; i++) values[i] = value;
}

int rknn_outputs_get(rknn_context context, uint32_t count, rknn_output outputs[], void *extend) {
    (void)extend;
    const Network *network = (const Network *)context;
    int code = fault("outputs", 0, network->mask);
    if (code) return code;
    if (count != network->count.n_output) return PARAM_INVALID;
    for (uint32_t i = 0; i < count; i++) {
        rknn_output *output = &outputs[i];
        uint32_t elements = network->outputs[i].n_elems, bytes = elements * sizeof(float);
        if (!output->want_float) return PARAM_INVALID; /* RKNNLite always wants floats */
        if (!output->is_prealloc) output->buf = malloc(bytes);
        memcpy(output->buf, network->results[i], bytes);
        if (i == 0) spoil(output->buf, elements);
        output->size = bytes;
        output->index = i;
    }
    return SUCCESS;
}

int rknn_outputs_release(rknn_context context, uint32_t count, rknn_output outputs[]) {
    (void)context;
    for (uint32_t i = 0; i < count; i++) {
        if (!outputs[i].is_prealloc) free(outputs[i].buf);
        outputs[i].buf = NULL;
    }
    return SUCCESS;
}
