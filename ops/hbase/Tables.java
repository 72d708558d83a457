import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.TableExistsException;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.Admin;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptor;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptorBuilder;
import org.apache.hadoop.hbase.client.Connection;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.RegionLocator;
import org.apache.hadoop.hbase.client.SnapshotDescription;
import org.apache.hadoop.hbase.client.TableDescriptor;
import org.apache.hadoop.hbase.client.TableDescriptorBuilder;
import org.apache.hadoop.hbase.io.encoding.DataBlockEncoding;
import org.apache.hadoop.hbase.regionserver.BloomType;
import org.apache.hadoop.hbase.tool.BulkLoadHFiles;
import org.apache.hadoop.hbase.util.Bytes;
import org.apache.hadoop.hbase.util.CommonFSUtils;

/**
 * What HBase's Thrift 1 server cannot do: tables with splits and encodings, bulk loads, snapshots.
 *
 * <p>Run from source by the JDK, one long-lived process per client:
 * {@code java -cp CONF:JARS Tables.java [ZOOKEEPER_HOST:PORT]}. It prints {@code ready} when HBase
 * answers; then each line of standard input is a command, its words separated by tabs, and each is
 * answered by one line: {@code ok}, {@code ok TAB result}, {@code error TAB one line}. Logs go to
 * standard error and to log4j's file. The end of standard input ends it. Every command may be
 * repeated after a failure.
 *
 * <pre>
 * create   TABLE VERSIONS ENCODING BLOOM SPLITS   one family "f"; SPLITS: hex,hex,... or nothing.
 *                                                 ok as well when the table is there
 * describe TABLE          versions TAB encoding TAB bloom TAB the splits that there are now
 * tables   PREFIX         their names, separated by commas
 * drop     TABLE          ok as well when there is none
 * load     TABLE FILES    then per file frames of [i32 big-endian length][bytes], the last one of
 *                         length 0: staged on HBase's file system, adopted by bulk load, removed
 * flush    TABLE          memory to files; returns when done
 * compact  TABLE          asks for a major compaction; returns at once
 * snapshot NAME TABLE     ok as well when this snapshot of this table is there
 * snapshots               name=table,...
 * restore  NAME           the table becomes what the snapshot has; it is away for a moment
 * clone    NAME TABLE     a new table from a snapshot
 * forget   NAME           ok as well when there is none
 * </pre>
 *
 * One thread; the caller sends one command at a time.
 */
public final class Tables {
    private static final byte[] FAMILY = Bytes.toBytes("f");
    private static final String STAGING = "firecell-staging";
    private static final int COPY_BYTES = 1 << 16;
    private static final int LINE_BYTES_MAX = 1 << 20;
    private static final int RETRIES_MAX = 6; // some 10 s: the caller has time-outs of its own

    private final Configuration configuration;
    private final Connection connection;
    private final DataInputStream input;
    private int loads = 0;

    private Tables(Configuration configuration, Connection connection, InputStream input) {
        this.configuration = configuration;
        this.connection = connection;
        this.input = new DataInputStream(new BufferedInputStream(input, 1 << 20));
    }

    public static void main(String[] arguments) throws Exception {
        PrintStream answers = new PrintStream(new FileOutputStream(FileDescriptor.out), true);
        System.setOut(System.err); // no library may write between our answers
        Configuration configuration = HBaseConfiguration.create();
        if (arguments.length > 0) {
            int colon = arguments[0].lastIndexOf(':');
            configuration.set("hbase.zookeeper.quorum", arguments[0].substring(0, colon));
            configuration.set("hbase.zookeeper.property.clientPort",
                arguments[0].substring(colon + 1));
        }
        configuration.setInt("hbase.client.retries.number", RETRIES_MAX);
        try (Connection connection = ConnectionFactory.createConnection(configuration)) {
            connection.getAdmin().getClusterMetrics();
            answers.println("ready");
            new Tables(configuration, connection, System.in).serve(answers);
        }
    }

    private void serve(PrintStream answers) throws IOException {
        for (String line = readLine(); line != null; line = readLine()) {
            try {
                String result = run(line.split("\t", -1));
                answers.println(result.isEmpty() ? "ok" : "ok\t" + result);
            } catch (EOFException gone) {
                return; // in the middle of a file: nobody waits for the answer
            } catch (Exception error) {
                error.printStackTrace();
                answers.println("error\t" + String.valueOf(error).replaceAll("\\s+", " "));
            }
        }
    }

    private String readLine() throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        for (int next = input.read(); next != '\n'; next = input.read()) {
            if (next < 0 || line.size() > LINE_BYTES_MAX) return null;
            line.write(next);
        }
        return line.toString(StandardCharsets.UTF_8);
    }

    private String run(String[] words) throws Exception {
        Admin admin = connection.getAdmin();
        switch (words[0]) {
            case "create": return create(admin, words);
            case "describe": return describe(admin, table(words, 1));
            case "tables": return names(admin, words.length > 1 ? words[1] : "");
            case "drop": return drop(admin, table(words, 1));
            case "load": return load(table(words, 1), Integer.parseInt(words[2]));
            case "flush": admin.flush(table(words, 1)); return "";
            case "compact": admin.majorCompact(table(words, 1)); return "";
            case "snapshot": return snapshot(admin, words[1], table(words, 2));
            case "snapshots": return snapshots(admin);
            case "restore": return restore(admin, words[1]);
            case "clone": admin.cloneSnapshot(words[1], table(words, 2)); return "";
            case "forget": return forget(admin, words[1]);
            default: throw new IOException("unknown command " + words[0]);
        }
    }

    private static TableName table(String[] words, int place) {
        return TableName.valueOf(words[place]);
    }

    // --- tables ---

    private String create(Admin admin, String[] words) throws IOException {
        if (admin.tableExists(table(words, 1))) return "";
        ColumnFamilyDescriptor family = ColumnFamilyDescriptorBuilder.newBuilder(FAMILY)
            .setMaxVersions(Integer.parseInt(words[2]))
            .setDataBlockEncoding(DataBlockEncoding.valueOf(words[3]))
            .setBloomFilterType(BloomType.valueOf(words[4]))
            .build();
        TableDescriptor descriptor =
            TableDescriptorBuilder.newBuilder(table(words, 1)).setColumnFamily(family).build();
        byte[][] splits = words[5].isEmpty()
            ? null
            : Arrays.stream(words[5].split(",")).map(Bytes::fromHex).toArray(byte[][]::new);
        try {
            admin.createTable(descriptor, splits);
        } catch (TableExistsException raced) {
            System.err.println("another process created " + words[1]);
        }
        return "";
    }

    private String describe(Admin admin, TableName table) throws IOException {
        ColumnFamilyDescriptor family = admin.getDescriptor(table).getColumnFamily(FAMILY);
        if (family == null) throw new IOException(table + " has no family f");
        try (RegionLocator regions = connection.getRegionLocator(table)) {
            String splits = Arrays.stream(regions.getStartKeys())
                .filter(key -> key.length > 0).map(Bytes::toHex).collect(Collectors.joining(","));
            return String.join("\t", String.valueOf(family.getMaxVersions()),
                family.getDataBlockEncoding().name(), family.getBloomFilterType().name(), splits);
        }
    }

    private String names(Admin admin, String prefix) throws IOException {
        return Arrays.stream(admin.listTableNames()).map(TableName::getNameAsString)
            .filter(name -> name.startsWith(prefix)).collect(Collectors.joining(","));
    }

    private String drop(Admin admin, TableName table) throws IOException {
        if (!admin.tableExists(table)) return "";
        if (admin.isTableEnabled(table)) admin.disableTable(table);
        admin.deleteTable(table);
        return "";
    }

    // --- snapshots ---

    private String snapshot(Admin admin, String name, TableName table) throws IOException {
        for (SnapshotDescription one : admin.listSnapshots()) {
            if (one.getName().equals(name) && one.getTableName().equals(table)) return "";
        }
        admin.snapshot(name, table);
        return "";
    }

    private String snapshots(Admin admin) throws IOException {
        return admin.listSnapshots().stream()
            .map(one -> one.getName() + "=" + one.getTableName().getNameAsString())
            .collect(Collectors.joining(","));
    }

    private String restore(Admin admin, String name) throws IOException {
        for (SnapshotDescription one : admin.listSnapshots()) {
            if (!one.getName().equals(name)) continue;
            TableName table = one.getTableName();
            if (!admin.tableExists(table)) {
                admin.cloneSnapshot(name, table);
                return "";
            }
            if (admin.isTableEnabled(table)) admin.disableTable(table);
            admin.restoreSnapshot(name);
            admin.enableTable(table);
            return "";
        }
        throw new IOException("no snapshot " + name);
    }

    private String forget(Admin admin, String name) throws IOException {
        for (SnapshotDescription one : admin.listSnapshots()) {
            if (one.getName().equals(name)) admin.deleteSnapshot(name);
        }
        return "";
    }

    // --- bulk load ---

    /** Takes every byte of every file from the input, whatever fails, so that the next line is a
     * command again. */
    private String load(TableName table, int count) throws IOException {
        IOException failure = null;
        FileSystem files = null;
        Path folder = null;
        try {
            Path root = CommonFSUtils.getRootDir(configuration);
            files = root.getFileSystem(configuration);
            String own = ProcessHandle.current().pid() + "-" + System.nanoTime() + "-" + loads++;
            folder = new Path(new Path(root, STAGING), own);
            files.mkdirs(folder);
        } catch (IOException error) {
            failure = error;
        }
        List<Path> staged = new ArrayList<>();
        for (int index = 0; index < count; index++) {
            Path path = failure == null ? new Path(folder, "run" + index) : null;
            IOException problem = receive(files, path);
            if (problem != null && failure == null) failure = problem;
            staged.add(path);
        }
        try {
            if (failure != null) throw failure;
            Map<byte[], List<Path>> families = new TreeMap<>(Bytes.BYTES_COMPARATOR);
            families.put(FAMILY, staged);
            BulkLoadHFiles.create(configuration).bulkLoad(table, families);
        } finally {
            if (folder != null) files.delete(folder, true);
        }
        return "";
    }

    /** One file; what went wrong with writing it, or null. EOFException: the caller is gone. */
    private IOException receive(FileSystem files, Path path) throws EOFException, IOException {
        IOException problem = path == null ? new IOException("not written") : null;
        OutputStream output = null;
        try {
            if (path != null) output = files.create(path, true);
        } catch (IOException error) {
            problem = error;
        }
        byte[] buffer = new byte[COPY_BYTES];
        for (int left = input.readInt(); left > 0; left = input.readInt()) {
            while (left > 0) {
                int size = Math.min(left, buffer.length);
                input.readFully(buffer, 0, size);
                left -= size;
                if (problem != null) continue;
                try {
                    output.write(buffer, 0, size);
                } catch (IOException error) {
                    problem = error;
                }
            }
        }
        try {
            if (output != null) output.close();
        } catch (IOException error) {
            if (problem == null) problem = error;
        }
        return problem;
    }
}
