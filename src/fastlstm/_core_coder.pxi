# A range coder for symbols with scores of a network: the part of _core.pyx for compression, included by it.
#
# The frequencies of V symbols are whole numbers that sum to 2^16, from scores y by integer arithmetic: with d_k the distance
# of y_k from the largest score, in units of ln 2 / 1024 and cut to a whole number,
#     f_k = 1 + floor((2^16 - V) w_k / sum w),    w_k = 2^(30 - d_k / 1024) from a table,
# and what is left of 2^16 goes to the likeliest symbol. Only the distances are in floating point, one subtraction and one
# multiplication, which all machines round alike: both ends of a file have the same frequencies.
#
# The coder is that of Martin (1979), with the carry as Schindler and LZMA have it: a range of 32 bits, bytes out from the top.

cdef enum:
    TOTAL_BITS = 16
    PER_OCTAVE = 1024  # entries of the table
    OCTAVES = 30  # a symbol less likely by more has the frequency 1
    MOST_SYMBOLS = 256
    LEAST_RANGE = 1 << 24

cdef float UNITS = <float>(PER_OCTAVE / 0.6931471805599453)
cdef uint32_t POWERS[PER_OCTAVE]  # 2^(30 - j / 1024)


def fill_powers():
    """From square roots and products, which all machines round alike; a library's pow they may not."""
    for j in range(PER_OCTAVE):
        power, root, bit = 1.0, 0.5, PER_OCTAVE
        while bit > 1:
            root, bit = sqrt(root), bit // 2
            if j & bit:
                power *= root
        POWERS[j] = <uint32_t>(power * (1 << OCTAVES) + 0.5)


fill_powers()


cdef Py_ssize_t frequencies(const float *y, Py_ssize_t n, uint32_t *f) noexcept nogil:
    """Frequencies f of n symbols with scores y, any bits at all; returns the likeliest symbol."""
    cdef Py_ssize_t k, best = 0
    cdef uint64_t sum = 0, scale
    cdef uint32_t left = 1 << TOTAL_BITS
    cdef float d
    cdef int j
    for k in range(1, n):
        if y[k] > y[best]:
            best = k
    for k in range(n):
        d = (y[best] - y[k]) * UNITS
        f[k] = 0
        if d < OCTAVES * PER_OCTAVE:  # neither NaN nor far away
            j = <int>d
            f[k] = POWERS[j & (PER_OCTAVE - 1)] >> (j // PER_OCTAVE)
        sum += f[k]
    scale = (<uint64_t>((1 << TOTAL_BITS) - n) << 44) // (sum if sum else 1)
    for k in range(n):
        f[k] = 1 + <uint32_t>((f[k] * scale) >> 44)
        left -= f[k]
    f[best] += left
    return best


def score_frequencies(y):
    """Frequencies (V,) of symbols with float32 scores y (V,): what the coders use, for tests."""
    cdef uint32_t f[MOST_SYMBOLS]
    y = as_array(y, "y", np.dtype(np.float32))
    if y.ndim != 1 or not 1 <= y.shape[0] <= MOST_SYMBOLS:
        raise ValueError(f"y has shape {y.shape} and must have 1 to {MOST_SYMBOLS} scores")
    frequencies(<const float *>data(y), y.shape[0], f)
    return np.array([f[k] for k in range(y.shape[0])])


cdef class RangeEncoder:
    """Symbols in, bytes out (`take`)."""
    cdef uint64_t low
    cdef uint32_t range
    cdef uint8_t cache
    cdef int64_t waiting  # bytes that a carry may still change: the cache, and 0xFF after it
    cdef object out

    def __init__(self):
        self.range, self.waiting, self.out = 0xFFFFFFFF, 1, bytearray()

    cdef int shift(self) except -1:
        cdef int carry = <int>(self.low >> 32)
        if self.low < 0xFF000000 or carry:
            while self.waiting:
                self.out.append((self.cache + carry) & 0xFF)
                self.cache = 0xFF
                self.waiting -= 1
            self.cache = (self.low >> 24) & 0xFF
        self.waiting += 1
        self.low = (self.low & 0x00FFFFFF) << 8
        return 0

    cdef int narrow(self, uint32_t start, uint32_t frequency) except -1:
        self.range >>= TOTAL_BITS
        self.low += <uint64_t>start * self.range
        self.range *= frequency
        while self.range < LEAST_RANGE:
            self.range <<= 8
            self.shift()
        return 0

    def encode(self, cnp.ndarray y, cnp.ndarray symbols):
        """Code int64 symbols (T,) by the scores float32 y (T, lanes, V) of lane 0."""
        cdef uint32_t f[MOST_SYMBOLS]
        cdef Py_ssize_t t, k, n = y.shape[2], s
        cdef uint32_t start
        assert y.dtype == np.float32 and symbols.dtype == np.int64 and y.flags.c_contiguous and symbols.flags.c_contiguous
        assert 1 <= n <= MOST_SYMBOLS and y.shape[0] == symbols.shape[0]
        for t in range(y.shape[0]):
            frequencies(<const float *>cnp.PyArray_DATA(y) + t * y.shape[1] * n, n, f)
            s = (<const int64_t *>cnp.PyArray_DATA(symbols))[t]
            assert 0 <= s < n
            start = 0
            for k in range(s):
                start += f[k]
            self.narrow(start, f[s])

    def number(self, int value):
        """Code a number of 16 bits as it is."""
        self.narrow(value, 1)

    def end(self):
        """Nothing more is coded: the last bytes."""
        for _ in range(5):
            self.shift()
        return self.take()

    def take(self):
        """The bytes since the last call."""
        out, self.out = self.out, bytearray()
        return bytes(out)


cdef class RangeDecoder:
    """Bytes in, symbols out; `read(size)` gives the next bytes, none at the end.

    It has read what the encoder has written, and not a byte more, when the last symbol is out."""
    cdef uint32_t code, range
    cdef object read, buffer
    cdef Py_ssize_t at, size
    cdef const uint8_t *bytes

    def __init__(self, read):
        self.read, self.range = read, 0xFFFFFFFF
        if self.next() != 0:  # the encoder's cache, which is empty at first
            raise ValueError("no encoder writes this")
        for _ in range(4):
            self.code = (self.code << 8) | <uint32_t>self.next()

    cdef int next(self) except -1:
        if self.at == self.size:
            self.buffer = self.read(1 << 16)
            self.at, self.size = 0, len(self.buffer)
            self.bytes = <const uint8_t *><const char *>self.buffer
            if self.size == 0:
                raise ValueError("it ends too early")
        self.at += 1
        return self.bytes[self.at - 1]

    cdef int narrow(self, uint32_t start, uint32_t frequency) except -1:
        self.code -= start * self.range
        self.range *= frequency
        while self.range < LEAST_RANGE:
            self.code = (self.code << 8) | <uint32_t>self.next()
            self.range <<= 8
        return 0

    cdef uint32_t place(self) except? 0:
        """Where in 2^16 the next symbol lies."""
        self.range >>= TOTAL_BITS
        cdef uint32_t place = self.code // self.range
        if place >> TOTAL_BITS:
            raise ValueError("no encoder writes this")
        return place

    def decode(self, cnp.ndarray y):
        """The next symbol, by the scores float32 y (lanes, V) of lane 0."""
        cdef uint32_t f[MOST_SYMBOLS]
        cdef Py_ssize_t n = y.shape[1], k = 0
        cdef uint32_t start = 0, place
        assert y.dtype == np.float32 and y.flags.c_contiguous and 1 <= n <= MOST_SYMBOLS
        frequencies(<const float *>cnp.PyArray_DATA(y), n, f)
        place = self.place()
        while place - start >= f[k]:  # the frequencies sum to 2^16: k stays below n
            start += f[k]
            k += 1
        self.narrow(start, f[k])
        return k

    def number(self):
        """A number of 16 bits."""
        cdef uint32_t value = self.place()
        self.narrow(value, 1)
        return value

    def at_end(self):
        """Whether the bytes end here, with those of the encoder's `end`."""
        return self.code == 0 and self.at == self.size and not self.read(1)
