package android.hardware;

public final class DataSpace {
    public static final int DATASPACE_UNKNOWN = 0;
    public static final int DATASPACE_JFIF = 146931712;
    public static final int DATASPACE_BT709 = 281083904;
    public static final int DATASPACE_BT601_625 = 281149440;
    public static final int DATASPACE_BT2020 = 147193856;
    public static final int DATASPACE_BT2020_PQ = 163971072;
    public static final int DATASPACE_DISPLAY_P3 = 143261696;
    public static final int STANDARD_UNSPECIFIED = 0;
    public static final int STANDARD_BT709 = 65536;
    public static final int STANDARD_BT601_625 = 131072;
    public static final int STANDARD_BT601_625_UNADJUSTED = 196608;
    public static final int STANDARD_BT601_525 = 262144;
    public static final int STANDARD_BT601_525_UNADJUSTED = 327680;
    public static final int STANDARD_BT2020 = 393216;
    public static final int RANGE_UNSPECIFIED = 0;
    public static final int RANGE_FULL = 134217728;
    public static final int RANGE_LIMITED = 268435456;
    public static final int RANGE_EXTENDED = 402653184;
    public static final int TRANSFER_ST2084 = 29360128;
    public static final int TRANSFER_HLG = 33554432;

    private DataSpace() {}

    public static int getStandard(int dataSpace) {
        return dataSpace & 63 << 16;
    }

    public static int getTransfer(int dataSpace) {
        return dataSpace & 31 << 22;
    }

    public static int getRange(int dataSpace) {
        return dataSpace & 7 << 27;
    }
}
